"""Webhooks without the store: when what is tried, what is signed and how, and the request itself."""
