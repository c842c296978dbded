"""API keys: how programs log in."""
