"""Access tokens for mail servers: OAuth 2.0 (RFC 6749) with PKCE (RFC 7636), as a client of authorisation servers."""
