"""A process that reads one message in all the ways in which the gateway does, to see whether that ends it.

`python -m mailgate.reading.trial SIZE`, the message on standard input, started by `mailgate.reading.suspects` only. It
says when it begins and when it is done; between the two, whatever ends it is the message, or somebody who kills
everything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mailgate.messages.headers import header_block, header_digest_input
from mailgate.messages.parser import parse, parse_summary
from mailgate.messages.returned import read_report
from mailgate.messages.tokens import message_terms
from mailgate.reading.html import safe_html
from mailgate.reading.limited import bound
from mailgate.reading.suspects import BEGUN, HARMLESS

PROCESSOR_S: Final = 20
"""So much of a processor's time it may take: what takes more is lost in the message."""

MEMORY: Final = 2 << 30
"""Bytes that it may take, its program's included."""


def main(size: int) -> None:
    """Read what comes. `size`: of the whole message."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a service that is stopped is no fault of the message
    raw = sys.stdin.buffer.read()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this one than the gateway
    bound(processor_s=PROCESSOR_S, memory=MEMORY)
    os.write(1, BEGUN)
    _try(lambda: parse_summary(raw, whole_size=size))
    _try(lambda: header_digest_input(raw))
    _try(lambda: read_report(raw, header_block(raw)))
    _try(lambda: message_terms(parse(raw)))
    _try(lambda: safe_html(parse(raw).html))
    os.write(1, HARMLESS)


def _try(work: Callable[[], object]) -> None:
    try:
        work()
    except MemoryError:
        raise  # the gateway has no more
    except Exception:  # noqa: BLE001, S110 - who reads it in earnest meets it as well, and knows what to do
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
