"""Protocols: mail servers as the gateway sees them. Knows no tenant, plan or database."""
