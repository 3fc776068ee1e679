"""`ImapTarget`: the port `Target` over one IMAP session.

Invariants:
1. A command that changes something is sent once, names exactly the messages that the caller named, and never depends on
   what another client marked (no bare EXPUNGE, no CLOSE).
2. A change is over within the time that `longest_s` tells, or the line drops.
3. What the server says of a change that it has carried out is never a reason to fail; what it leaves out is asked for.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from connectors.errors import FolderGoneError, Retry, ServerError, ThrottledError
from connectors.flags import check_flags
from connectors.imap.collect import Gather
from connectors.imap.command import Argument, Str
from connectors.imap.folders import folder_name
from connectors.imap.inflight import Collector, Command
from connectors.imap.internaldate import format_internal_date
from connectors.imap.labels import format_labels
from connectors.imap.line import ImapLine
from connectors.imap.namespace import namespace_of
from connectors.imap.placed import join_placed, parse_appenduid, parse_copyuid
from connectors.imap.refusal import change_error
from connectors.imap.responses import ListItem, Namespaces, Status
from connectors.imap.told import ToldCode, ToldFlags
from connectors.imap.uidset import UidSet, format_sets, ranges_of
from connectors.imap.upload import COLLECTED, append_limit, collect, send_collected, stream
from connectors.imap.utf7 import decode_name, encode_name
from connectors.model import Instant, Namespace, Selected, SpecialUse
from connectors.port import Abilities, Placed

_IN_TRANSIT: Final = 4 << 20
"""Octets that the system may have taken from us and not sent yet."""

_NO_FOLDER: Final = frozenset({"\\noselect", "\\nonexistent"})
_UNEXPLAINED: Final = frozenset({None, "CANNOT", "NOPERM"})
_USES: Final[dict[SpecialUse, str]] = {
    use: f"\\{use.value.capitalize()}" for use in SpecialUse if use is not SpecialUse.INBOX
}


class ImapTarget(ImapLine):
    """The writing side of one authenticated connection."""

    @property
    def abilities(self) -> Abilities:
        words = self.capabilities
        rev2 = "IMAP4REV2" in words  # which has MOVE and UIDPLUS inside (RFC 9051 appendix E)
        return Abilities(
            move=rev2 or "MOVE" in words,
            expunge=rev2 or "UIDPLUS" in words,
            places=rev2 or "UIDPLUS" in words,
            labels="X-GM-EXT-1" in words,
        )

    def longest_s(self, messages: int | None = 1, octets: int = 0) -> float:
        timeouts = self._session.timeouts
        if messages is None:
            return timeouts.folder_s
        return timeouts.command_s + messages * timeouts.message_s + min(octets, _IN_TRANSIT) / timeouts.octets_per_s

    async def namespace(self) -> Namespace:
        if "NAMESPACE" in self.capabilities or "IMAP4REV2" in self.capabilities:
            said = Gather(Namespaces, frozenset({"NAMESPACE"}), strict=False)
            status = await self._session.wait_for(self._session.start("NAMESPACE", collector=said))
            if status.condition == "OK" and said.found and said.found[0].personal:
                prefix, delimiter = said.found[0].personal[0]
                return Namespace(decode_name(prefix), delimiter)
        listed = Gather(ListItem, frozenset({"LIST"}), strict=False)
        await self._session.run("LIST", Str(b""), Str(b"*"), collector=listed)
        return namespace_of(listed.found)

    async def select(self, name: str) -> Selected:
        return await self._open("SELECT", name)

    # Flags and labels.

    async def store_flags(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> dict[int, frozenset[str]]:
        check_flags(add)
        check_flags(remove, removed=True)
        wanted = UidSet(ranges_of(uids))
        if not wanted or not (add or remove):
            return {}
        self._need_selected()
        told = ToldFlags(wanted)
        changes = [(sign, flags) for sign, flags in (("+FLAGS", add), ("-FLAGS", remove)) if flags]
        async with self._session.within(self.longest_s(len(uids)), "STORE"):
            await self._finish(
                self._start("UID STORE", part, sign, f"({' '.join(sorted(flags))})", collector=told)
                for sign, flags in changes
                for part, _ in format_sets(wanted)
            )
            # Some servers tell nothing of a message, or not what became of it: what stands there now is asked for.
            unsure = [uid for uid in uids if not _fits(told.flags.get(uid), add, remove)]
            for uid in unsure:
                told.flags.pop(uid, None)
            await self._finish(
                self._start("UID FETCH", part, "(UID FLAGS)", collector=told)
                for part, _ in format_sets(ranges_of(unsure))
            )
        return told.flags

    async def store_labels(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> None:
        self._need(self.abilities.labels, "X-GM-EXT-1")
        self._need_selected()
        changes = [(sign, labels) for sign, labels in (("+", add), ("-", remove)) if labels]
        async with self._session.within(self.longest_s(len(uids)), "STORE"):
            await self._finish(
                self._start("UID STORE", part, f"{sign}X-GM-LABELS", format_labels(labels))
                for sign, labels in changes
                for part, _ in format_sets(ranges_of(uids))
            )

    # Moving, copying, removing.

    async def move(self, uids: Sequence[int], to: str) -> Placed | None:
        self._need(self.abilities.move, "MOVE")
        self._need_selected()
        return await self._place("UID MOVE", uids, to)

    async def copy(self, uids: Sequence[int], to: str) -> Placed | None:
        return await self._place("UID COPY", uids, to)

    async def _place(self, name: str, uids: Sequence[int], to: str) -> Placed | None:
        wanted = UidSet(ranges_of(uids))
        folder = Str(encode_name(to))
        codes: list[ToldCode] = []
        async with self._session.within(self.longest_s(len(uids)), name):
            commands = []
            for part, _ in format_sets(wanted):
                code = ToldCode("COPYUID")
                codes.append(code)
                commands.append(self._start(name, part, folder, collector=code))
            statuses = await self._finish(commands)
        # For COPY it stands in the tagged OK, for MOVE in one before (RFC 6851 §4.3).
        said = [
            parse_copyuid(arguments, wanted, len(uids))
            for code, status in zip(codes, statuses, strict=True)
            if (arguments := code.of(status)) is not None
        ]
        return join_placed(said)

    async def expunge(self, uids: Sequence[int]) -> None:
        self._need(self.abilities.expunge, "UIDPLUS")
        self._need_selected()
        wanted = UidSet(ranges_of(uids))
        parts = [part for part, _ in format_sets(wanted)]
        async with self._session.within(self.longest_s(2 * len(uids)), "EXPUNGE"):
            marks = [self._start("UID STORE", part, "+FLAGS.SILENT", "(\\Deleted)") for part in parts]
            try:
                await self._finish([*marks, *(self._start("UID EXPUNGE", part) for part in parts)])
                await self._gone(wanted)
            except (ServerError, ThrottledError):
                # What the server keeps must not stay marked: another client's EXPUNGE would remove it later.
                await self._try([self._start("UID STORE", part, "-FLAGS.SILENT", "(\\Deleted)") for part in parts])
                raise

    async def _gone(self, uids: UidSet) -> None:
        """Dovecot answers OK, and keeps all, when the rights of a shared folder (RFC 4314) do not allow it."""
        left = ToldFlags(uids)
        await self._finish(
            self._start("UID FETCH", part, "(UID FLAGS)", collector=left) for part, _ in format_sets(uids)
        )
        if left.flags:
            why = "UID EXPUNGE was answered OK, and the server kept the messages all the same"
            raise ServerError(why, code="NOPERM", retry=Retry.NEVER)

    async def append(
        self,
        name: str,
        size: int,
        chunks: AsyncIterable[bytes],
        *,
        flags: frozenset[str] = frozenset(),
        internal_date: Instant | None = None,
    ) -> Placed | None:
        if size < 1:
            raise ValueError("an empty message cannot be appended")
        limit = append_limit(self.capabilities)
        if limit is not None and size > limit:
            raise ServerError(f"the server takes messages of up to {limit} octets", code="TOOBIG", retry=Retry.NEVER)
        arguments: list[Argument] = [Str(encode_name(name))]
        if check_flags(flags):
            arguments.append(f"({' '.join(sorted(flags))})")
        if internal_date is not None:
            arguments.append(f'"{format_internal_date(internal_date)}"')
        if self._open_name == name and not self._selected:
            with suppress(ServerError):  # what is asked for will tell
                await self._open("SELECT", name)  # Courier puts nothing into what is open for reading only
        longest_s = self.longest_s(1, size)
        if size <= COLLECTED:
            data = await collect(size, chunks)
            async with self._session.within(longest_s, "APPEND"):
                status = await send_collected(self._session, data, *arguments, timeout_s=longest_s)
        else:
            status = await stream(self._session, size, chunks, *arguments, timeout_s=longest_s)
        if status.condition != "OK":
            raise change_error(status, "APPEND")
        return parse_appenduid(status.arguments) if status.code == "APPENDUID" else None

    # Folders.

    async def create_folder(self, name: str, special_use: SpecialUse | None = None) -> None:
        folder = Str(encode_name(name))
        use = _USES.get(special_use) if special_use is not None else None
        wishes: list[Argument] = [f"(USE ({use}))"] if use and "CREATE-SPECIAL-USE" in self.capabilities else []
        async with self._session.within(self.longest_s(None), "CREATE"):
            try:
                await self._finish([self._start("CREATE", folder, *wishes)])
            except ServerError as error:
                if error.code != "USEATTR":
                    raise await self._explained(error, new=name) from None
                # The server cannot give it that use (RFC 6154 §3), but the folder.
                await self._finish([self._start("CREATE", folder)])
            await self._try([self._start("SUBSCRIBE", folder)])

    async def rename_folder(self, name: str, to: str) -> None:
        async with self._session.within(self.longest_s(None), "RENAME"):
            await self._leave(name)
            subscribed = await self._subscribed(name)
            try:
                await self._finish([self._start("RENAME", Str(encode_name(name)), Str(encode_name(to)))])
            except ServerError as error:
                raise await self._explained(error, old=name, new=to) from None
            await self._follow(subscribed, name, to)

    async def delete_folder(self, name: str) -> None:
        folder = Str(encode_name(name))
        async with self._session.within(self.longest_s(None), "DELETE"):
            await self._leave(name)
            try:
                await self._finish([self._start("DELETE", folder)])
            except ServerError as error:
                raise await self._explained(error, old=name) from None
            await self._try([self._start("UNSUBSCRIBE", folder)])

    async def resubscribe(self, before: str | None, name: str | None) -> None:
        async with self._session.within(self.longest_s(None), "SUBSCRIBE"):
            if before is None or name is None:
                words = (("UNSUBSCRIBE", before), ("SUBSCRIBE", name))
                await self._try([self._start(word, Str(encode_name(one))) for word, one in words if one is not None])
            else:
                await self._follow(await self._subscribed(before) or [before], before, name)

    async def _follow(self, subscribed: Sequence[str], name: str, to: str) -> None:
        """Servers leave subscriptions by the old names when a folder is renamed (RFC 9051 §6.3.7), or end them, those
        of the folders inside it too: mail programs that show what is subscribed would show none of them.
        """
        for before in subscribed:
            after = to + before[len(name) :]
            await self._try(
                [
                    self._start("SUBSCRIBE", Str(encode_name(after))),
                    self._start("UNSUBSCRIBE", Str(encode_name(before))),
                ]
            )

    async def _subscribed(self, name: str) -> list[str]:
        """What is subscribed of a folder and those inside it. Where the server does not tell, the folder."""
        pattern = Str(encode_name(name) + b"*")
        rev2 = "IMAP4REV1" not in self.capabilities  # which has no LSUB any more
        said = Gather(ListItem, frozenset({"LIST"} if rev2 else {"LSUB"}), strict=False)
        try:
            if rev2:
                await self._session.run("LIST", "(SUBSCRIBED)", Str(b""), pattern, collector=said)
            else:
                await self._session.run("LSUB", Str(b""), pattern, collector=said)
        except ServerError:
            return [name]
        # Courier and pymap name what only has something subscribed inside it, too.
        told = (item for item in said.found if "\\noselect" not in item.attributes)
        found = {folder_name(item.name): item.delimiter for item in told}
        return sorted(one for one, delimiter in found.items() if one == name or _is_inside(one, name, delimiter))

    async def _explained(self, error: ServerError, *, old: str | None = None, new: str | None = None) -> ServerError:
        """A refusal without a code (Courier gives none): is a folder in the way, or is there none? LIST tells. It also
        tells what no server says: a folder was to stand inside one that can have none.
        """
        with suppress(ServerError):  # Courier refuses to LIST names with emoji, too
            if error.code is None and old is not None and not await self._is_there(old):
                return FolderGoneError(str(error), code="NONEXISTENT")
            if error.code is None and new is not None and await self._is_there(new):
                error.code = "ALREADYEXISTS"
            if error.code in _UNEXPLAINED and new is not None and (above := await self._childless(new)) is not None:
                return ServerError(
                    f"the server allows no folders inside {above!r}: {error}", code="CANNOT", retry=Retry.NEVER
                )
        return error

    async def _childless(self, name: str) -> str | None:
        """The folder above that can have none inside it (RFC 9051 §7.3.1 \\Noinferiors)."""
        delimiter = (await self.namespace()).delimiter
        while delimiter and delimiter in name:
            name = name.rpartition(delimiter)[0]
            for item in await self._list(name):
                if folder_name(item.name) == folder_name(encode_name(name)):
                    return name if "\\noinferiors" in item.attributes else None
        return None

    async def _list(self, name: str) -> list[ListItem]:
        listed = Gather(ListItem, frozenset({"LIST"}), strict=False)
        await self._session.run("LIST", Str(b""), Str(encode_name(name)), collector=listed)
        return listed.found

    async def _is_there(self, name: str) -> bool:
        items = await self._list(name)
        return any(folder_name(item.name) == name and not item.attributes & _NO_FOLDER for item in items)

    async def _leave(self, name: str) -> None:
        """Closes what is open if it may be this folder, or one inside it: servers hang up on who has it open.

        By UNSELECT (RFC 3691), else by opening another: CLOSE would expunge.
        """
        if self._open_name is None or not self._open_name.startswith(name):
            return
        if "UNSELECT" in self.capabilities or "IMAP4REV2" in self.capabilities:
            await self._session.run("UNSELECT")
            self._closed()
        else:
            await self._open("EXAMINE", "INBOX")

    # The way of a change.

    def _start(self, name: str, *arguments: Argument, collector: Collector | None = None) -> Command:
        """How long it may take is watched over all commands of a change, by `within`."""
        return self._session.start(name, *arguments, collector=collector, timeout_s=math.inf)

    async def _finish(self, commands: Iterable[Command]) -> list[Status]:
        """All are sent, then all answers waited for. Raises for the first that was refused."""
        sent = list(commands)
        statuses = [await self._session.wait_for(command) for command in sent]
        for command, status in zip(sent, statuses, strict=True):
            if status.condition != "OK":
                raise change_error(status, command.name)
        return statuses

    async def _try(self, commands: Iterable[Command]) -> None:
        """Whatever the server says is well."""
        for command in list(commands):
            await self._session.wait_for(command)

    def _need(self, offered: bool, what: str) -> None:
        if not offered:
            raise ValueError(f"the server does not offer {what}")

    def _need_selected(self) -> None:
        """Not every server refuses a change in a folder that was opened with EXAMINE (Courier makes it)."""
        if not self._selected:
            raise ValueError("no folder is open for writing")


def _is_inside(name: str, above: str, delimiter: str | None) -> bool:
    return bool(delimiter) and name.startswith(f"{above}{delimiter}")


def _fits(flags: frozenset[str] | None, add: frozenset[str], remove: frozenset[str]) -> bool:
    """Could these be a message's flags after the change? Keywords are compared without case (RFC 9051 §2.3.2)."""
    if flags is None:
        return False
    folded = {flag.lower() for flag in flags}
    return folded.issuperset(f.lower() for f in add) and folded.isdisjoint(f.lower() for f in remove)
