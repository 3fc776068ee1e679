"""`ImapSource`: the port `Source` over one IMAP session.

Every answer is judged before it is believed. What contradicts the request or itself either ends the call with
ProtocolError (when the answer as a whole can't be trusted) or is left out (when only one message or folder is
concerned); the place says which, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date
from typing import Final, TypeVar

from connectors.errors import FolderGoneError, NetworkError, ProtocolError, Scope, ServerError, ThrottledError
from connectors.imap.bodies import fetch_messages
from connectors.imap.collect import FetchStream, Gather, Hits
from connectors.imap.command import Str
from connectors.imap.folders import folder_name, folders_of
from connectors.imap.idle import idle
from connectors.imap.internaldate import format_search_date
from connectors.imap.labels import label_of
from connectors.imap.line import ImapLine
from connectors.imap.refusal import command_error, open_error
from connectors.imap.responses import WHOLE, Body, Fetch, ListItem, StatusItem
from connectors.imap.session import Session
from connectors.imap.uidset import UidSet, format_sets
from connectors.imap.utf7 import encode_name
from connectors.model import FlagsChange, Folder, FolderStatus, MessageMeta, QResync, Selected
from connectors.port import Fetched, FolderChange, S
from connectors.searches import Searches

_T = TypeVar("_T")

BATCH: Final = 1_000
"""The most items in one batch of `fetch_meta` and `fetch_flags`."""

DEPTH: Final = 4
"""How many FETCH commands are in flight at once."""

HEADER_LIMIT: Final = 1 << 20
POLL_S: Final = 60.0
"""Without IDLE: seconds between two NOOPs."""

PAUSE_S: Final = 5.0
"""Seconds between two IDLEs of which the server ended the first by itself."""

MANY_MESSAGES: Final = 2_000_000
"""So many at most are listed of one folder: a hostile server would fill our memory with numbers."""

_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = 86_400_000_000

_SLACK: Final = 100_000
"""A search may find this many more than EXISTS before it counts as a lie that would only fill our memory."""


class ImapSource(ImapLine):
    """The reading side of one authenticated connection."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._folder_count: int | None = None
        self._labels_of: dict[str, str] = {}  # folders that are labels
        self._refused: dict[str, ServerError] = {}  # searches, by their key
        self.searches = Searches()

    # Folders.

    async def list_folders(self) -> list[Folder]:
        items = Gather(ListItem, frozenset({"LIST"}), strict=False)
        if {"LIST-EXTENDED", "SPECIAL-USE"} <= self.capabilities:
            await self._session.run("LIST", Str(b""), Str(b"*"), "RETURN", "(SPECIAL-USE)", collector=items)
        else:
            await self._session.run("LIST", Str(b""), Str(b"*"), collector=items)
        self._folder_count = len(items.found)
        folders = folders_of(items.found)
        if "X-GM-EXT-1" in self.capabilities:
            self._labels_of = {folder.name: label for folder in folders if (label := label_of(folder)) is not None}
        return folders

    async def status(self, names: Sequence[str]) -> dict[str, FolderStatus | None]:
        found: dict[str, FolderStatus | None] = {}
        wanted = frozenset(names)
        many = self._folder_count is not None and len(names) * 2 >= self._folder_count
        if many and len(names) > 2 and {"LIST-STATUS", "LIST-EXTENDED"} <= self.capabilities:
            items: Gather[StatusItem | ListItem] = Gather(
                (StatusItem, ListItem), frozenset({"STATUS", "LIST"}), strict=False
            )
            what = f"(STATUS {self._status_items()})"
            await self._session.run("LIST", Str(b""), Str(b"*"), "RETURN", what, collector=items)
            self._note(found, wanted, [item for item in items.found if isinstance(item, StatusItem)])
        await self._ask_status(found, [name for name in names if name not in found])
        return {name: found[name] for name in names if name in found}

    async def _ask_status(self, found: dict[str, FolderStatus | None], names: Sequence[str]) -> None:
        """STATUS one by one, pipelined. A NO concerns its folder only; that the folder is not there, it must say."""
        items: Gather[StatusItem] = Gather(StatusItem, frozenset({"STATUS"}), strict=False)
        what = self._status_items()
        commands = [self._session.start("STATUS", Str(encode_name(name)), what, collector=items) for name in names]
        for name, command in zip(names, commands, strict=True):
            status = await self._session.wait_for(command)
            error = open_error(status, "STATUS") if status.condition != "OK" else None
            if isinstance(error, ThrottledError):
                raise error
            if isinstance(error, FolderGoneError):
                found[name] = None
        self._note(found, frozenset(names), items.found)

    def _status_items(self) -> str:
        modseq = " HIGHESTMODSEQ" if "CONDSTORE" in self.capabilities or self._qresync else ""
        return f"(MESSAGES UIDNEXT UIDVALIDITY{modseq})"

    @staticmethod
    def _note(found: dict[str, FolderStatus | None], wanted: frozenset[str], items: Iterable[StatusItem]) -> None:
        for item in items:
            if {"MESSAGES", "UIDVALIDITY"} <= item.items.keys():
                name = folder_name(item.name)
                if name in wanted:
                    found[name] = FolderStatus(
                        uidvalidity=item.items["UIDVALIDITY"],
                        uidnext=item.items.get("UIDNEXT") or None,
                        exists=item.items["MESSAGES"],
                        highestmodseq=item.items.get("HIGHESTMODSEQ") or None,
                    )

    async def open(self, name: str, qresync: QResync | None = None) -> Selected:
        return await self._open("EXAMINE", name, qresync)

    # Searching.

    async def search_since(self, since: date) -> list[int]:
        return await self._found(since, "SINCE", format_search_date(since))

    async def list_uids(self) -> list[int]:
        if self._exists > MANY_MESSAGES:
            error = ProtocolError(f"of the {self._exists} messages that the server counts no list of all is asked for")
            error.scope = Scope.FOLDER
            raise error
        return await self._found(None, "ALL")

    async def _found(self, since: date | None, key: str, *more: str) -> list[int]:
        refused, name = self._refused.get(key), self._open_name
        if name is not None and self.searches.are_futile(name):
            refused = ServerError("the server ended the connection over each search of this folder")
        if refused is None or name is None:
            try:
                found = await self._search(key, *more)
            except NetworkError:
                if name is not None:
                    self.searches.ended_the_line(name)
                raise
            except ServerError as error:
                self.searches.came(name or "")
                if self._open_name is None:
                    raise
                # Kept: servers hang up on who says over and over what they do not understand.
                refused = self._refused[key] = error
            else:
                self.searches.came(name or "")
                if found is not None:
                    return found
                # Believing that it is nothing could look like an emptied folder.
                refused = ServerError("the server did not say what it found")
        return await self._listed(since, refused)

    async def _listed(self, since: date | None, refused: ServerError) -> list[int]:
        """What a search would find, where the server refuses it (Twisted: every SINCE) or says nothing (hoodiecrow,
        where nothing is found): a FETCH of all tells. A day more, since SINCE goes by the dates of the server's own
        time zone. Raises `refused` where it told too little.
        """
        wanted = UidSet([range(1, 1 << 32)])
        start = None if since is None else (since - _EPOCH).days * _DAY - _DAY

        def read(fetch: Fetch) -> int | None:
            if fetch.uid is None or fetch.uid not in wanted or (start is not None and fetch.internal_date is None):
                return None
            told.add(fetch.uid)
            if len(told) > min(self._exists, MANY_MESSAGES) + _SLACK:
                raise ProtocolError("the server lists more messages than there are")
            return fetch.uid if start is None or (fetch.internal_date or 0) >= start else 0

        told: set[int] = set()
        found: set[int] = set()
        stream = FetchStream(self._session, read, wanted)
        items = "(UID)" if start is None else "(UID INTERNALDATE)"
        async for batch in self._batches(stream, wanted, items, None):
            found.update(batch)
        if len(told) < self._exists:
            raise refused
        return sorted(found - {0})

    async def _search(self, *criteria: str) -> list[int] | None:
        """None: answered OK, without a word of what was found in a folder that has messages."""
        esearch = "ESEARCH" in self.capabilities or "IMAP4REV2" in self.capabilities
        # ESEARCH names thousands of millions in a dozen bytes (RFC 4731 §3.1), and they would be held one by one.
        hits = Hits(min(self._exists, MANY_MESSAGES) + _SLACK)
        arguments = ("RETURN", "(ALL COUNT)", *criteria) if esearch else criteria
        await self._session.run("UID SEARCH", *arguments, collector=hits)
        return sorted(hits.uids) if hits.answered or not self._exists else None

    # Fetching.

    async def fetch_meta(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[MessageMeta]]:
        wanted = UidSet(uids)

        def read(fetch: Fetch) -> MessageMeta | None:
            # Without UID, flags or size it is no answer to what was asked; a UID that was not asked for is somebody
            # else's change.
            if fetch.uid is None or fetch.flags is None or fetch.size is None or fetch.uid not in wanted:
                return None
            labels = self._labels(fetch.labels)
            return MessageMeta(
                fetch.uid, fetch.flags, fetch.internal_date, fetch.size, fetch.modseq, fetch.email_id, labels
            )

        stream = FetchStream(self._session, read, wanted)
        async for batch in self._batches(stream, wanted, f"({self._meta_items()})", changed_since):
            yield batch

    async def fetch_flags(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[FlagsChange]]:
        wanted = UidSet(uids)

        def read(fetch: Fetch) -> FlagsChange | None:
            if fetch.uid is None or fetch.flags is None or fetch.uid not in wanted:
                return None
            return FlagsChange(fetch.uid, fetch.flags, fetch.modseq, self._labels(fetch.labels))

        stream = FetchStream(self._session, read, wanted)
        items = "(UID FLAGS X-GM-LABELS)" if "X-GM-EXT-1" in self.capabilities else "(UID FLAGS)"
        async for batch in self._batches(stream, wanted, items, changed_since):
            yield batch

    def fetch_bodies(self, uids: Sequence[int], open_sink: Callable[[int], S]) -> AsyncIterator[Fetched[S]]:
        def make(meta: MessageMeta, body: Body) -> Fetched[S]:
            return Fetched(self._labelled(meta), body.sink, body.octets)  # type: ignore[arg-type]  # the sink that open_sink made

        return fetch_messages(
            self._session, uids, self._meta_items(), "BODY.PEEK[]", WHOLE, open_sink, make, depth=DEPTH
        )

    def fetch_headers(self, uids: Sequence[int]) -> AsyncIterator[tuple[MessageMeta, bytes]]:
        def make(meta: MessageMeta, body: Body) -> tuple[MessageMeta, bytes]:
            return self._labelled(meta), bytes(body.sink.data) if isinstance(body.sink, HeaderSink) else b""

        return fetch_messages(
            self._session, uids, self._meta_items(), "BODY.PEEK[HEADER]", "HEADER", HeaderSink, make, depth=DEPTH
        )

    def _labels(self, told: frozenset[str] | None) -> frozenset[str] | None:
        """All labels: X-GM-LABELS leaves out that of the open folder."""
        own = self._labels_of.get(self._open_name or "")
        return told if told is None or own is None else told | {own}

    def _labelled(self, meta: MessageMeta) -> MessageMeta:
        return meta if meta.labels is None else replace(meta, labels=self._labels(meta.labels))

    def _meta_items(self) -> str:
        items = ["UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE"]
        if self._modseq:
            items.append("MODSEQ")
        # Not EMAILID (RFC 8474), which equal messages may share: it would tell nothing that their content does not.
        if "X-GM-EXT-1" in self.capabilities:
            items.append("X-GM-MSGID X-GM-LABELS")
        return " ".join(items)

    async def _batches(
        self, stream: FetchStream[_T], wanted: UidSet, items: str, changed_since: int | None
    ) -> AsyncIterator[list[_T]]:
        if changed_since is not None and not self._modseq:
            raise ValueError("changed_since needs a folder with CONDSTORE")
        more: tuple[str, ...] = () if changed_since is None else (f"(CHANGEDSINCE {changed_since})",)
        sets = format_sets(wanted)
        try:
            while True:
                while len(stream.running) < DEPTH and (part := next(sets, None)) is not None:
                    stream.start(part[1], part[0], items, *more)
                batch = stream.take_many(BATCH)
                if batch:
                    yield batch
                    continue
                stream.check()
                for command, _, status in stream.finished:
                    if status.condition != "OK":
                        raise command_error(status, command.name)
                done = bool(stream.finished)
                stream.finished.clear()
                if not stream.running and not done:
                    return
                if not done:
                    await stream.wait()
        finally:
            stream.close()

    # Waiting.

    async def idle(self, timeout_s: float) -> FolderChange | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        # Without IDLE, NOOP asks; either way the last turn is known before it begins, since timers may fire a little
        # early.
        turn_s = self._session.timeouts.idle_s if "IDLE" in self.capabilities else POLL_S
        while self._change is None and (left := end - loop.time()) > 0:
            self._waker = loop.create_future()
            try:
                if "IDLE" in self.capabilities:
                    ended = await idle(self._session, self._waker, min(left, turn_s))
                    if ended and self._change is None:
                        # The server ended it by itself, and may do so each time.
                        await asyncio.wait({self._waker}, timeout=min(end - loop.time(), PAUSE_S))
                else:
                    await self.noop()
                    if self._change is None:
                        await asyncio.wait({self._waker}, timeout=min(left, turn_s))
            finally:
                self._waker = None
            if left <= turn_s:
                break
        change, self._change = self._change, None
        return change


class HeaderSink:
    """Keeps the first `HEADER_LIMIT` bytes."""

    __slots__ = ("data",)

    def __init__(self, octets: int) -> None:
        self.data = bytearray()

    def write(self, chunk: memoryview, /) -> None:
        room = HEADER_LIMIT - len(self.data)
        if room > 0:
            self.data += chunk[:room]
