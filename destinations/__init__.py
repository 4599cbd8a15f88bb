"""Where it goes: the routes, the loop that delivers, and each kind of destination."""
