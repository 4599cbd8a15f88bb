"""What comes in from Khoros: notifications, the subscription that brings them, and the poll for missed events."""
