"""A small IMAP server that tells the truth about a few folders, and lies where a test wants it to.

    server = FakeImap({"INBOX": [Mail(1, b"Subject: x\\r\\n\\r\\n")]})
    server.lies["EXAMINE"] = lambda talk, tag, rest: talk.send(...)        # instead of the true answer
    async with server: ... connect to 127.0.0.1:server.port ...

It speaks just enough of RFC 3501, with UIDPLUS and MOVE: no CONDSTORE, no ESEARCH, one capability set for all. What
clients said stands in `heard`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Self, TypeAlias


@dataclass
class Mail:
    """One message of a folder. `date` as INTERNALDATE shows it; now when empty."""

    uid: int
    raw: bytes
    flags: bytes = b""
    date: bytes = b""

    @property
    def shown_date(self) -> bytes:
        return self.date or datetime.now(UTC).strftime("%d-%b-%Y %H:%M:%S +0000").encode()


CHANGES = ("UID STORE", "UID COPY", "UID MOVE", "UID EXPUNGE", "APPEND")


class End(Enum):
    """What becomes of a line after something was said."""

    NONE = "none"
    CUT = "reset"
    HALF = "ended in order, in one direction"
    SILENT = "nothing more is said"


class Talk:
    """One connection, on the server's side."""

    def __init__(self, server: FakeImap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.folder = ""
        self.tag = b""
        self.ended = False
        self.literal = b""

    async def send(self, *lines: bytes) -> None:
        """Lines, CRLF added."""
        await self.raw(b"".join(line + b"\r\n" for line in lines))

    async def raw(self, data: bytes) -> None:
        end = End.NONE
        if self.server.mangle is not None:
            data, end = self.server.mangle(self.tag, data)
        if self.ended:
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()
        self.ended = end in (End.CUT, End.HALF)
        if end is End.CUT:
            self.writer.transport.abort()
        elif end is End.HALF:
            self.writer.write_eof()
        elif end is End.SILENT:
            await self.reader.read()  # until the client gives up

    async def ok(self, text: bytes = b"done") -> None:
        await self.send(self.tag + b" OK " + text)

    async def run(self) -> None:
        if "greeting" in self.server.lies:
            await self.server.lies["greeting"](self, b"")
        else:
            await self.send(b"* OK [CAPABILITY " + self.server.capabilities + b"] hello")
        while line := (await self.reader.readuntil(b"\r\n"))[:-2]:
            self.tag, _, rest = line.partition(b" ")
            while (literal := re.search(rb"\{(\d+)\+?\}\Z", rest)) is not None:
                if not literal[0].endswith(b"+}"):
                    await self.send(b"+ go on")
                octets = int(literal[1])
                if self.server.cut_in_literal:
                    await self.reader.readexactly(octets // 2)
                    await self.send(b"* BYE in the middle")
                    raise ConnectionResetError
                self.literal = await self.reader.readexactly(octets)
                rest = rest[: literal.start()] + b'"' + self.literal + b'"'
                rest += (await self.reader.readuntil(b"\r\n"))[:-2]
            self.server.heard.append(rest)
            words = rest.split(b" ")
            name = b" ".join(words[:2] if words[0].upper() == b"UID" else words[:1]).decode().upper()
            if name == "LOGOUT":
                await self.send(b"* BYE bye")
                await self.ok()
                return
            lie = self.server.lies.get(name)
            if lie is not None:
                await lie(self, rest)
            else:
                await self.truth(name, rest)

    async def truth(self, name: str, rest: bytes) -> None:
        """The honest answer to a command."""
        server, words = self.server, rest.split(b" ")
        if name == "LIST":
            await self.send(*(b'* LIST () "/" "' + folder.encode() + b'"' for folder in server.folders))
            await self.ok()
        elif name in ("EXAMINE", "SELECT", "STATUS"):
            folder = re.findall(rb'"((?:[^"\\]|\\.)*)"', rest)[0].decode(errors="replace")
            if folder not in server.folders:
                await self.send(self.tag + b" NO [NONEXISTENT] no such folder")
                return
            mails = server.folders[folder]
            uidnext = server.shown_uidnext or server.next_uid(folder)
            validity = server.uidvalidity.get(folder, 1)
            if name == "STATUS":
                quoted = b'* STATUS "' + folder.encode() + b'" '
                await self.send(quoted + b"(MESSAGES %d UIDNEXT %d UIDVALIDITY %d)" % (len(mails), uidnext, validity))
                await self.ok()
                return
            self.folder = folder
            await self.send(
                b"* FLAGS ()",
                b"* %d EXISTS" % len(mails),
                b"* OK [UIDVALIDITY %d] x" % validity,
                b"* OK [UIDNEXT %d] x" % uidnext,
            )
            await self.ok(b"[READ-ONLY] open" if name == "EXAMINE" else b"[READ-WRITE] open")
        elif name.startswith("UID ") and self.folder not in server.folders:
            await self.send(self.tag + b" BAD no folder is open")
        elif name == "UID SEARCH":
            await self.send(b" ".join([b"* SEARCH", *(b"%d" % mail.uid for mail in server.folders[self.folder])]))
            await self.ok()
        elif name == "UID FETCH":
            await self.fetch(words[2], rest)
            await self.ok()
        elif name in CHANGES:
            lines, text = self.change(name, rest)
            await self.send(*lines)
            await self.ok(text)
        elif name == "IDLE":
            await self.send(b"+ idling")
            await self.reader.readuntil(b"\r\n")
            await self.ok()
        elif name == "CAPABILITY":
            await self.send(b"* CAPABILITY " + server.capabilities)
            await self.ok()
        else:
            await self.ok()

    def change(self, name: str, rest: bytes) -> tuple[list[bytes], bytes]:
        """Carry out a command that changes something: what is to be said of it, before and with the OK."""
        server, words = self.server, rest.split(b" ")
        target = (re.findall(rb'"((?:[^"\\]|\\.)*)"', rest) or [b""])[0].decode()
        if name == "APPEND":
            flags = re.search(rb'" \(([^)]*)\)', rest)
            date = re.search(rb'"(..-...-.... [^"]*)"', rest)
            uid = server.put(target, self.literal, flags[1] if flags else b"", date[1] if date else b"")
            return [], b"[APPENDUID %d %d] done" % (server.uidvalidity.get(target, 1), uid)
        mails = server.folders[self.folder]
        meant = [mail for mail in mails if in_set(words[2], mail.uid)]
        if name == "UID STORE":
            named = set(rest.partition(b"(")[2].rstrip(b")").split())
            for mail in meant:
                flags_now = set(mail.flags.split())
                mail.flags = b" ".join(sorted(flags_now | named if words[3][:1] == b"+" else flags_now - named))
            told = [] if b".SILENT" in words[3] else meant
            return [b"* %d FETCH (UID %d FLAGS (%s))" % (mails.index(m) + 1, m.uid, m.flags) for m in told], b"done"
        if name == "UID EXPUNGE":
            return self._remove([mail for mail in meant if b"\\Deleted" in mail.flags]), b"done"
        there = [server.put(target, mail.raw, mail.flags, mail.date) for mail in meant]
        sets = b",".join(b"%d" % mail.uid for mail in meant), b",".join(b"%d" % uid for uid in there)
        code = b"[COPYUID %d %s %s]" % (server.uidvalidity.get(target, 1), *sets)
        return ([], code + b" done") if name == "UID COPY" else ([b"* OK " + code, *self._remove(meant)], b"done")

    def _remove(self, gone: list[Mail]) -> list[bytes]:
        mails = self.server.folders[self.folder]
        self.server.next_uid(self.folder)
        lines = []
        for mail in gone:
            lines.append(b"* %d EXPUNGE" % (mails.index(mail) + 1))
            mails.remove(mail)
        return lines

    async def fetch(self, what: bytes, rest: bytes) -> None:
        for number, mail in enumerate(self.server.folders[self.folder], start=1):
            if in_set(what, mail.uid):
                await self.answer(number, mail, rest)

    async def answer(self, number: int, mail: Mail, rest: bytes) -> None:
        """One FETCH response with what `rest` asks for."""
        head = b"* %d FETCH (UID %d FLAGS (%s)" % (number, mail.uid, mail.flags)
        if b"INTERNALDATE" in rest:
            head += b' INTERNALDATE "%s" RFC822.SIZE %d' % (mail.shown_date, len(mail.raw))
        if b"BODY.PEEK[HEADER]" in rest:
            header = mail.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            head += b" BODY[HEADER] {%d}\r\n%s" % (len(header), header)
        elif b"BODY.PEEK[]" in rest:
            head += b" BODY[] {%d}\r\n%s" % (len(mail.raw), mail.raw)
        await self.send(head + b")")


Lie: TypeAlias = Callable[[Talk, bytes], Awaitable[None]]


@dataclass
class FakeImap:
    """The server. `lies`: command name (or "greeting") → what to do instead of the truth. `mangle` makes of a tag and
    what was to be said what is said, and what becomes of the line then.
    """

    folders: dict[str, list[Mail]]
    capabilities: bytes = b"IMAP4rev1 IDLE LITERAL+"
    uidvalidity: dict[str, int] = field(default_factory=dict)
    lies: dict[str, Lie] = field(default_factory=dict)
    heard: list[bytes] = field(default_factory=list)
    open: set[Talk] = field(default_factory=set)
    mangle: Callable[[bytes, bytes], tuple[bytes, End]] | None = None
    accepted: int = 0
    port: int = 0
    cut_in_literal: bool = False
    uidnext: dict[str, int] = field(default_factory=dict)
    shown_uidnext: int | None = None

    def next_uid(self, folder: str) -> int:
        """UIDNEXT, which never falls."""
        highest = max((mail.uid for mail in self.folders[folder]), default=0)
        self.uidnext[folder] = max(self.uidnext.get(folder, 1), highest + 1)
        return self.uidnext[folder]

    def put(self, folder: str, raw: bytes, flags: bytes = b"", date: bytes = b"") -> int:
        """A message is put there; its UID."""
        uid = self.next_uid(folder)
        self.folders[folder].append(Mail(uid, raw, flags, date))
        return uid

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(self, reader, writer)
        self.open.add(talk)
        self.accepted += 1
        try:
            await talk.run()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client hung up, or the test ends
        finally:
            self.open.discard(talk)
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.hang_up()
        with contextlib.suppress(asyncio.CancelledError):
            await self._server.wait_closed()

    def hang_up(self) -> None:
        """Every connection is reset."""
        for talk in list(self.open):
            talk.writer.transport.abort()


def in_set(what: bytes, uid: int) -> bool:
    """Whether the UID is in a set as commands write it."""
    for word in what.split(b","):
        first, _, last = word.partition(b":")
        low, high = int(first), (int(first) if not last else 1 << 32 if last == b"*" else int(last))
        if low <= uid <= high:
            return True
    return False
