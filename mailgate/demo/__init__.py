"""The demonstration: generated mail on a real IMAP server, and a CRM that uses nothing but the HTTP interface."""
