"""Consents by which mail servers are used without passwords: whose providers, what is kept, when tokens are renewed."""
