"""Outgoing mail as it is decided, without doing anything: addresses, MIME, what an answer of the server means. Pure.

addresses   what may be sent to, and how it is written on the wire
compose     from texts and files to the bytes of a message
received    a whole message that a client gave: who gets it, and what it lacks
model       states, recipients, outcomes
decide      what follows from an attempt, and when the next one is
"""
