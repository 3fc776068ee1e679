"""Settings of mail servers for an address: known providers, what a domain publishes, and a guess."""
