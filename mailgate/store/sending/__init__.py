"""Outgoing mail in the database: what is accepted, claimed, journalled, sent, and paired with what the server files.

accept      from a request to a queued submission, its bytes durable
queue       claims, the journal before DATA, what became of an attempt
filing      the copy of what was sent, and its place in the Sent folder
allowance   how much a tenant may send
returns     bounces and answers that arrive by synchronization
records     the rows, and what is sealed in them
"""
