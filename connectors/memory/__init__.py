"""A mail account in memory, and connections to it: the double for tests of everything above the connectors.

`MemoryAccount` is the server, and what other clients do to it; `MemoryConnection` is the gateway's line. Both sides may
be used in turn, and any number of connections may be open.
"""

from __future__ import annotations

from connectors.memory.account import MemoryAccount, MemoryConnection
from connectors.memory.faults import Faults
from connectors.memory.mailstore import Mailstore, MemoryFolder, MemoryMessage
from connectors.memory.source import MemorySource
from connectors.memory.target import MemoryTarget

__all__ = [
    "Faults",
    "Mailstore",
    "MemoryAccount",
    "MemoryConnection",
    "MemoryFolder",
    "MemoryMessage",
    "MemorySource",
    "MemoryTarget",
]
