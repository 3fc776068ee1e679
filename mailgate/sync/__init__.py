"""Keeping a mailbox's copies in step with its server: gather, decide, apply.

`reconcile`, `identity` and `guards` decide and are pure; `snapshot`, `execute`, `pull` and `run` gather and apply;
`supervisor` runs all mailboxes of a process. What they need of the database is declared in `port` and implemented by
`mailgate.store.sync`.
"""
