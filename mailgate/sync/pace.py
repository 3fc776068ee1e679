"""When a live mailbox does what: the moment of its next poll, and how fast passes may follow each other."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Final

from mailgate.clock import SECOND, Instant

BREATH_S: Final = 0.5
"""Between two passes over the same folder because of what IDLE said: a server that never stops telling, or a client
that marks a thousand messages one by one, gets passes at this pace, once `BURST` of them have followed each other.
"""
BURST: Final = 20
"""So many changes in a row are taken at once: an hour's new mail that arrives together is not held up."""

FLAGS_BREATH_S: Final = 2.0
"""The same when flags changed and, without CONDSTORE, only a comparison of all shows which."""


def next_poll_at(mailbox_id: str, now: Instant, interval_s: int) -> Instant:
    """A poll interval from now, or up to a tenth more or less: each mailbox has its own moment in the interval, so that
    mailboxes that went live together are not polled together.
    """
    interval = interval_s * SECOND
    phase = int.from_bytes(sha256(mailbox_id.encode()).digest()[:8], "big") % interval
    off = (phase - now) % interval
    off = off if off <= interval // 2 else off - interval
    return now + interval + max(-interval // 10, min(off, interval // 10))


class Pace:
    """Keeps passes apart in the long run (a leaky bucket)."""

    def __init__(self) -> None:
        self._paced_s = 0.0

    async def breathe(self, *, all_flags: bool) -> None:
        """Wait until the next pass is due; a burst of them is free. `all_flags`: it compares all flags."""
        pause_s, burst = (FLAGS_BREATH_S, 1) if all_flags else (BREATH_S, BURST)
        now_s = asyncio.get_running_loop().time()
        self._paced_s = max(self._paced_s, now_s) + pause_s
        wait_s = self._paced_s - now_s - burst * pause_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
