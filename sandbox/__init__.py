"""A simulated Khoros and a simulated Zendesk on real HTTP, and the relay between them: see `python -m sandbox`."""
