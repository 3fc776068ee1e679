"""IMAP4rev1/rev2 as a client: wire (pure), session (the only importer of aioimaplib), source."""
