"""HTML made safe to show, at a cost that is bounded whatever it says.

No count in advance knows all that is costly, and what counts suspect is most often an ordinary newsletter. So that is
made safe by a process of its own (`python -m mailgate.reading.html`), which may take so much of the machine; what it
does not finish is shown as its words.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

from mailgate.messages.charsets import clean
from mailgate.messages.html import as_words, may_be_costly, sanitize_html
from mailgate.reading import limited

PROCESSOR_S: Final = 3
"""Several times what two megabytes take whose tags fit together."""

MEMORY: Final = 1 << 29
"""Bytes that it may take, its program's included."""

PATIENCE_S: Final = 60.0
"""So long it may take, which may use a fraction of that of a processor."""

KEPT: Final = 10_000
"""Of so many messages is remembered that their HTML costs too much."""


class TooCostly(Exception):  # noqa: N818 - an answer
    """The process that should make it safe was cut. Another one would be, too."""


class HtmlReader:
    """Makes the HTML of messages safe, and remembers whose process was cut: the next time they cost nothing. Any thread
    may use it.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._too_costly: dict[str, None] = {}
        self._changing = threading.Lock()

    def safe(self, name: str, source: str) -> str:
        """As `safe_html`. `name`: what the message's bytes are known by, and those of no other tenant."""
        if name in self._too_costly:
            return as_words(clean(source))
        try:
            return _safe(clean(source))
        except TooCostly:
            self._remember(name)
            return as_words(clean(source))

    def _remember(self, name: str) -> None:
        with self._changing:
            self._too_costly[name] = None
            if len(self._too_costly) > self._kept:
                del self._too_costly[next(iter(self._too_costly))]


def safe_html(source: str) -> str:
    """HTML that may be put into a page: see `sanitize_html`. Blocks; never raises."""
    source = clean(source)
    try:
        return _safe(source)
    except TooCostly:
        return as_words(source)


def _safe(source: str) -> str:
    """Raises TooCostly. Words, where no process can be had at this moment."""
    if not may_be_costly(source):
        return sanitize_html(source)
    made, code = limited.run(__name__, str(PROCESSOR_S), given=source.encode(), patience_s=PATIENCE_S)
    if code:
        raise TooCostly
    return made.decode("utf-8") if made else as_words(source)


def main(processor_s: int) -> None:
    """Make safe what comes on standard input, UTF-8, and write it to standard output as a whole."""
    source = sys.stdin.buffer.read().decode("utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # how it ends is no news: it is there to end
    limited.bound(processor_s=processor_s, memory=MEMORY)
    sys.stdout.buffer.write(sanitize_html(source).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
