"""The purge log: one append-only Merkle log per tenant, and what it takes to verify it without trusting the gateway.

The folder stands alone. It imports the standard library and `cryptography`, uses relative imports only and reads no
configuration, so an auditor copies it anywhere and runs `python -m ledger verify DIR --vkey K`.

    tree         RFC 6962 hashing, the frontier that grows, inclusion and consistency proofs      (pure)
    tiles        C2SP tlog-tiles: paths, which tiles a size has, hashes and entries in them         (pure)
    leaves       the records: constructors, canonical JSON, strict parsing, commitments            (pure)
    note         C2SP signed notes with Ed25519
    checkpoint   C2SP log checkpoints: origin, size, root, signed
    directory    an exported log on disk, read
    export       an exported log on disk, written
    verify       everything in a directory, hashed again
    consistency  two states of one log
    replay       the rules, proven from the leaves alone; plans, held: what it knows of plans, policies and holds
    proof        one leaf's proof as a text of its own; disclosure: what its commitments commit to
    certificate  what one run did, from its leaves; certificate_page: the same to be printed
"""
