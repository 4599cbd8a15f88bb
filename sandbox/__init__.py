"""A fake Khoros and a fake Zendesk on real HTTP, and the relay between them: `python -m sandbox` runs all three."""
