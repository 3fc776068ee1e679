"""Asks a time-stamping authority for stamps on signed checkpoints, outside any transaction.

Nothing waits for it: without a stamp a checkpoint is as good as before. What fails is recorded with its reason, which
raises an alarm, and is asked for again after the next signing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx
import structlog
from cryptography.x509 import Certificate

from mailgate import timestamps
from mailgate.store import stamps
from mailgate.store.database import Database
from mailgate.store.stamps import Unstamped
from mailgate.timestamps import MAX_REPLY, QUERY_TYPE, REPLY_TYPE, TimestampError

_log = structlog.get_logger("mailgate.stamp")

TIMEOUT_S = 15.0
"""For one answer, whole: one that drips counts as one that does not come."""

Client = Callable[[], httpx.AsyncClient]


def client() -> httpx.AsyncClient:
    """One that follows no redirects and does not wait for ever."""
    return httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)


class Stamper:
    """One process's asking. `url` empty: there is no authority, and nothing is asked."""

    def __init__(
        self,
        db: Database,
        url: str,
        roots: Sequence[Certificate],
        open_client: Client = client,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._db = db
        self._url = url
        self._host = httpx.URL(url).host  # all of the address that may be told: it may hold a password
        self._roots = roots
        self._client = open_client
        self._timeout_s = timeout_s

    async def work(self) -> tuple[int, int]:
        """Ask for every stamp that is missing; (kept, failed). An authority that can't be reached is asked once."""
        if not self._url:
            return 0, 0
        kept = failed = 0
        async with self._client() as http:
            for each in await stamps.missing(self._db):
                try:
                    async with asyncio.timeout(self._timeout_s):
                        stamp = await self._ask(http, each)
                except (TimestampError, httpx.HTTPError, TimeoutError) as error:
                    why = f"{self._host}: {str(error) or type(error).__name__}"
                    _log.warning("not_stamped", tenant=each.tenant_id, size=each.size, reason=why)
                    await stamps.keep(self._db, each, None, why)
                    failed += 1
                    if not isinstance(error, TimestampError):
                        break
                else:
                    await stamps.keep(self._db, each, stamp, None)
                    kept += 1
        return kept, failed

    async def _ask(self, http: httpx.AsyncClient, of: Unstamped) -> bytes:
        query = timestamps.query(of.note)
        headers = {"content-type": QUERY_TYPE, "accept": REPLY_TYPE}
        async with http.stream("POST", self._url, content=query.body, headers=headers) as answer:
            if answer.status_code != httpx.codes.OK:
                raise TimestampError(f"it answered {answer.status_code}")
            data = bytearray()
            async for chunk in answer.aiter_bytes():
                data += chunk
                if len(data) > MAX_REPLY:
                    raise TimestampError(f"its answer has more than {MAX_REPLY} bytes")
        timestamps.check(bytes(data), of.note, self._roots, nonce=query.nonce)
        return bytes(data)
