"""Handing messages to mail submission servers: SMTP (RFC 5321) with TLS, AUTH, SIZE, 8BITMIME and SMTPUTF8."""
