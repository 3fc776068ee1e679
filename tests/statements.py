"""What SQLAlchemy works out of a statement is worked out once in a run, as in one long-lived gateway.

It keeps that by engine, and each test opens engines of its own: without this, half of what a test of the store takes is
the making of the same SQL again. An engine takes the dialect and the statements of the first that connected with its
driver; connections, pools, events and settings stay its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

_known: dict[str, tuple[Dialect, LRUCache[Any, Any]]] = {}


@pytest.fixture(autouse=True, scope="session")
def _statements_are_compiled_once() -> Iterator[None]:
    from mailgate.store import database

    real = database.create_async_engine

    def create(url: URL, **options: Any) -> AsyncEngine:
        made = real(url, **options)
        engine = made.sync_engine
        if url.drivername in _known:
            engine.dialect, engine._compiled_cache = _known[url.drivername]
        else:
            engine._compiled_cache = LRUCache(5_000)

            @event.listens_for(engine, "engine_connect", once=True)
            def connected(_: object) -> None:  # only now the dialect knows the server
                _known.setdefault(url.drivername, (engine.dialect, engine._compiled_cache))

        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "create_async_engine", create)
        yield
