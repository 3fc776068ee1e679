"""One IMAP line: what is known of the folder that is open on it, and what the server tells of it unasked."""

from __future__ import annotations

import asyncio

from connectors.errors import ProtocolError, Scope
from connectors.imap.collect import Opening
from connectors.imap.command import Argument, Str
from connectors.imap.fetch import parse_flags
from connectors.imap.refusal import open_error
from connectors.imap.responses import Exists, Expunge, Fetch, Response, Vanished
from connectors.imap.session import Session
from connectors.imap.uidset import join, size
from connectors.imap.utf7 import encode_name
from connectors.model import FolderStatus, Instant, QResync, Selected
from connectors.port import FolderChange


class ImapLine:
    """What reading and writing share. For one task at a time; only `close` may be called from anywhere."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.access_until: Instant | None = None
        self._qresync = False
        self._open_name: str | None = None
        self._selected = False
        self._exists = 0
        self._modseq = False
        self._change: FolderChange | None = None
        self._waker: asyncio.Future[None] | None = None
        session.listener = self._unasked

    async def enable_extensions(self) -> None:
        """ENABLE QRESYNC (which implies CONDSTORE) where offered (RFC 7162 §3.2.3)."""
        if {"ENABLE", "QRESYNC"} <= self.capabilities:
            self._qresync = "QRESYNC" in await self._session.enable("QRESYNC")

    @property
    def capabilities(self) -> frozenset[str]:
        return self._session.capabilities

    async def noop(self) -> None:
        await self._session.run("NOOP")

    async def close(self) -> None:
        await self._session.close()

    async def _open(self, command: str, name: str, qresync: QResync | None = None) -> Selected:
        """SELECT or EXAMINE (§6.3.2, §6.3.3). Raises FolderGoneError, ServerError, ThrottledError; ProtocolError about
        the folder when the server leaves out what must be known.
        """
        use = qresync if qresync is not None and self._qresync and qresync.modseq > 0 else None
        arguments: list[Argument] = [Str(encode_name(name))]
        if use is not None:
            arguments.append(f"(QRESYNC ({use.uidvalidity} {use.modseq}))")
        elif "CONDSTORE" in self.capabilities and not self._qresync:
            arguments.append("(CONDSTORE)")
        opening = Opening()
        self._closed()
        status = await self._session.wait_for(self._session.start(command, *arguments, collector=opening))
        if status.condition != "OK":
            raise open_error(status, command)
        if opening.exists is None or not opening.uidvalidity:
            # Without these nothing can be told of the folder; other folders may be well.
            error = ProtocolError("the server opened the folder without EXISTS or UIDVALIDITY")
            error.scope = Scope.FOLDER
            raise error
        self._open_name, self._selected = name, command == "SELECT"
        self._exists = opening.exists
        self._modseq = opening.highestmodseq is not None
        resynced = (
            use is not None and opening.uidvalidity == use.uidvalidity and self._modseq and opening.unread is None
        )
        flags = opening.permanent_flags
        return Selected(
            status=FolderStatus(
                uidvalidity=opening.uidvalidity,
                uidnext=opening.uidnext or None,
                exists=opening.exists,
                highestmodseq=opening.highestmodseq or None,
            ),
            # SELECT without a code is for writing (RFC 3501 §6.3.1 says only SHOULD), EXAMINE without one is not.
            read_only=status.code == "READ-ONLY" if command == "SELECT" else status.code != "READ-WRITE",
            resynced=resynced,
            vanished=tuple(join(opening.vanished)) if resynced else (),
            changed=tuple(opening.changed[uid] for uid in sorted(opening.changed)) if resynced else (),
            permanent_flags=parse_flags.__wrapped__(flags) if flags is not None else None,
            object_id=opening.object_id,
        )

    def _closed(self) -> None:
        self._open_name, self._selected = None, False
        self._exists, self._modseq, self._change = 0, False, None

    def _unasked(self, response: Response) -> None:
        """What nobody in flight wanted: the server tells what others did to the folder (RFC 9051 §7)."""
        if isinstance(response, Exists):
            if response.count == self._exists:
                return
            # Fewer without an EXPUNGE breaks §7.4.1; a pass will find out what is true.
            self._changed(exists=response.count, expunged=response.count < self._exists)
            self._exists = response.count
        elif isinstance(response, Expunge):
            # A sequence number beyond EXISTS breaks §7.5.1; that something is gone is all that is taken from it anyway.
            self._exists = max(0, self._exists - 1)
            self._changed(expunged=True)
        elif isinstance(response, Vanished):
            if not response.earlier:
                self._exists = max(0, self._exists - size(response.uids))
            self._changed(expunged=True)
        elif isinstance(response, Fetch) and response.flags is not None:
            self._changed(flags=True)

    def _changed(self, *, exists: int | None = None, expunged: bool = False, flags: bool = False) -> None:
        before = self._change or FolderChange()
        self._change = FolderChange(
            exists=exists if exists is not None else before.exists,
            expunged=expunged or before.expunged,
            flags=flags or before.flags,
        )
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)
