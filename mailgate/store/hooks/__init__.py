"""Webhooks in the store: endpoints, and the journal of what is delivered to them."""
