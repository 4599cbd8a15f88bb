"""Looks after the service: commands, pages, metrics, alerts and retention."""
