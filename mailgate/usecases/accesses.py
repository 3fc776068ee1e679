"""Writing down who did what, when it was done: over HTTP and on the pages."""

from __future__ import annotations

import structlog

from mailgate.store.access_log import Access, Kind
from mailgate.store.outages import is_outage
from mailgate.usecases.parts import Services

_log = structlog.get_logger("mailgate.access")


async def write_down(parts: Services, access: Access) -> None:
    """A change is in the log when this returns, a read within a minute. Where the database can't be used, the gateway's
    own log says so: what was done is done, and its answer must not say otherwise.
    """
    try:
        if access.kind is Kind.READ:
            await parts.access.read(access)
        else:
            await parts.access.note(access)
    except Exception as error:
        if not is_outage(error):
            raise
        _log.error("access_not_written", actor=access.actor, route=access.route, status=access.status)
