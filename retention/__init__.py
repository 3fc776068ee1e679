"""When a copy is due, and the purge that follows: policy (pure), engine behind a port, and the purge log.

Knows no protocol, no database and nothing of the gateway that composes it.

    model      what is judged and what comes out
    policy     the rules, for one copy and for a set                 (pure)
    port       what a store must offer to a purge
    engine     a run from its opening to its balanced closing
    ledger     the purge log; stands alone
"""
