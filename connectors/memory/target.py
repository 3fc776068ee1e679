"""The writing side of a connection to an account in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from connectors.errors import FolderGoneError, Retry, ServerError, ThrottledError
from connectors.flags import check_flags
from connectors.memory.line import MemoryLine
from connectors.memory.mailstore import MemoryFolder
from connectors.model import Instant, Namespace, Selected, SpecialUse
from connectors.port import Placed

T = TypeVar("T")

_LATER = frozenset({"INUSE", "UNAVAILABLE", "LIMIT"})


class MemoryTarget(MemoryLine):
    """Implements `connectors.port.Target`."""

    def longest_s(self, messages: int | None = 1, octets: int = 0) -> float:
        return 60.0

    async def namespace(self) -> Namespace:
        await self._step("NAMESPACE")
        return Namespace(self._account.prefix, self._account.delimiter)

    async def select(self, name: str) -> Selected:
        self.open_name, self._selected = None, False
        await self._step(f"SELECT {name}")
        self._refuse("SELECT")
        folder = self._folder(name, "NONEXISTENT")
        self.open_name, self._change, self._selected = name, None, True
        return Selected(
            status=self._account.status_of(folder),
            read_only=folder.read_only,
            permanent_flags=self._account.permanent_flags,
            object_id=folder.object_id,
        )

    async def store_flags(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> dict[int, frozenset[str]]:
        check_flags(add)
        check_flags(remove, removed=True)
        if not uids:
            return {}
        answered: dict[int, frozenset[str]] = {}
        for sign, flags in (("+", add), ("-", remove)):
            if flags:
                answered |= await self._store(uids, sign, flags)
        return answered

    async def store_labels(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> None:
        account = self._account
        if not account.labels:
            raise ValueError("the server has no labels")

        def store(folder: MemoryFolder) -> None:
            for uid in _there(folder, uids):
                labels = folder.messages[uid].labels or frozenset()
                account.store_labels(folder.name, uid, labels | add if sign == "+" else labels - remove)

        for sign, labels in (("+", add), ("-", remove)):
            if labels and uids:
                what = f"UID STORE {_set(uids)} {sign}X-GM-LABELS ({' '.join(sorted(labels))})"
                await self._change_messages(what, store)

    async def move(self, uids: Sequence[int], to: str) -> Placed | None:
        account = self._account
        if not account.can_move:
            raise ValueError("the server has no MOVE")
        if not uids:
            return None

        def move(folder: MemoryFolder) -> Placed:
            target = self._folder(to, "TRYCREATE")
            there = _there(folder, uids)
            only, account.faults.move_only = account.faults.move_only, None
            placed = {uid: account.move(folder.name, uid, to) for uid in there[:only]}
            if only is not None:
                self.drop("connection reset")
            return Placed(target.uidvalidity, placed)

        return self._told(await self._change_messages(f"UID MOVE {_set(uids)} {to}", move))

    async def copy(self, uids: Sequence[int], to: str) -> Placed | None:
        account = self._account
        if not uids:
            return None

        def copy(folder: MemoryFolder) -> Placed:
            target = self._folder(to, "TRYCREATE")
            there = _there(folder, uids)
            self._check_quota(sum(len(folder.messages[uid].raw) for uid in there))
            return Placed(target.uidvalidity, {uid: account.copy(folder.name, uid, to) for uid in there})

        return self._told(await self._change_messages(f"UID COPY {_set(uids)} {to}", copy, writes=False))

    async def expunge(self, uids: Sequence[int]) -> None:
        account = self._account
        if not account.uidplus:
            raise ValueError("the server has no UID EXPUNGE")
        if not uids:
            return
        await self._store(uids, "+", frozenset({"\\Deleted"}))

        def expunge(folder: MemoryFolder) -> None:
            for uid in _there(folder, uids):
                if "\\Deleted" in folder.messages[uid].flags:
                    account.expunge(folder.name, uid)

        try:
            await self._change_messages(f"UID EXPUNGE {_set(uids)}", expunge)
            await self._step("FETCH flags")
            if _there(self._open_folder(), uids):
                raise _refusal("UID EXPUNGE was answered OK, and the server kept the messages all the same", "NOPERM")
        except (ServerError, ThrottledError):
            with suppress(ServerError, ThrottledError):
                await self._store(uids, "-", frozenset({"\\Deleted"}))
            raise

    async def append(
        self,
        name: str,
        size: int,
        chunks: AsyncIterable[bytes],
        *,
        flags: frozenset[str] = frozenset(),
        internal_date: Instant | None = None,
    ) -> Placed | None:
        account = self._account
        kept = self._kept(check_flags(flags))
        self._check_up()
        try:
            raw = await _collect(size, chunks)
        except BaseException:
            self.drop("the message was not sent whole")
            raise

        def append() -> Placed:
            folder = self._folder(name, "TRYCREATE")
            self._check_quota(size)
            when = account.now if internal_date is None else internal_date
            uid = account.append(name, raw, internal_date=when, flags=kept)
            return Placed(folder.uidvalidity, {0: uid})

        return self._told(await self._carry_out(f"APPEND {name}", append))

    async def create_folder(self, name: str, special_use: SpecialUse | None = None) -> None:
        account = self._account

        def create() -> None:
            if name in account.folders and account.folders[name].selectable:
                raise _refusal("the folder exists already", "ALREADYEXISTS")
            if not name.startswith(account.prefix):
                raise _refusal("no folder may stand there", "CANNOT")
            account.folders.pop(name, None)
            account.create_folder(name, special_use=special_use)

        await self._carry_out(f"CREATE {name}", create)
        account.subscribed.add(name)

    async def rename_folder(self, name: str, to: str) -> None:
        account = self._account
        self._leave(name)

        def rename() -> None:
            below = name + account.delimiter
            if name == "INBOX" or not to.startswith(account.prefix):
                raise _refusal("that cannot be renamed so", "CANNOT")
            if not any(n == name or n.startswith(below) for n in account.folders):
                raise FolderGoneError("no such folder", code="NONEXISTENT")
            if to in account.folders:
                raise _refusal("a folder of that name exists already", "ALREADYEXISTS")
            account.rename_folder(name, to)

        await self._carry_out(f"RENAME {name} {to}", rename)
        self._follow(name, to)

    async def delete_folder(self, name: str) -> None:
        account = self._account
        self._leave(name)

        def delete() -> None:
            if name == "INBOX":
                raise _refusal("INBOX cannot be deleted", "CANNOT")
            account.delete_folder(self._folder(name, "NONEXISTENT").name)

        await self._carry_out(f"DELETE {name}", delete)
        account.subscribed.discard(name)

    async def resubscribe(self, before: str | None, name: str | None) -> None:
        def resubscribe() -> None:
            if before is None or name is None:
                self._account.subscribed.discard(before or "")
                self._account.subscribed.update([] if name is None else [name])
            else:
                self._follow(before, name)

        await self._carry_out(f"SUBSCRIBE {name}", resubscribe)

    def _follow(self, name: str, to: str) -> None:
        account = self._account
        below = name + account.delimiter
        followed = {one for one in account.subscribed if one == name or one.startswith(below)}
        account.subscribed -= followed
        account.subscribed |= {to + one[len(name) :] for one in followed}

    # The way of a change.

    async def _store(self, uids: Sequence[int], sign: str, flags: frozenset[str]) -> dict[int, frozenset[str]]:
        account = self._account

        def store(folder: MemoryFolder) -> dict[int, frozenset[str]]:
            for uid in _there(folder, uids):
                before = folder.messages[uid].flags
                account.store_flags(folder.name, uid, before | self._kept(flags) if sign == "+" else before - flags)
            return {uid: folder.messages[uid].flags for uid in _there(folder, uids)}

        return await self._change_messages(f"UID STORE {_set(uids)} {sign}FLAGS ({' '.join(sorted(flags))})", store)

    async def _change_messages(self, command: str, effect: Callable[[MemoryFolder], T], *, writes: bool = True) -> T:
        self._check_up()
        if writes and not self._selected:
            raise ValueError("no folder is open for writing")

        def in_folder() -> T:
            folder = self._open_folder()
            if writes and folder.read_only:
                raise _refusal("the folder cannot be written to", "NOPERM")
            return effect(folder)

        return await self._carry_out(command, in_folder)

    async def _carry_out(self, command: str, effect: Callable[[], T]) -> T:
        """A change goes there, takes effect or is refused, and the answer comes back; the line may drop at any of
        these.
        """
        await self._step(command)
        faults = self._account.faults
        faults.cut_before, now = _count(faults.cut_before)
        if now:
            self.drop("connection reset")
            self._check_up()
        faults.lose_answer, lost = _count(faults.lose_answer)
        try:
            words = command.split(" ")
            self._refuse(words[1] if words[0] == "UID" else words[0])
            done = effect()
        finally:
            if lost:
                self.drop("connection reset")
                self._check_up()
        await self._step(None)
        return done

    def _refuse(self, word: str) -> None:
        refusals = self._account.faults.refusals
        if word not in refusals:
            return
        code = refusals[word]
        if code in _LATER:
            raise ThrottledError(f"{word} was answered NO: [{code}]")
        raise _refusal(f"{word} was answered NO", code)

    def _folder(self, name: str, code: str) -> MemoryFolder:
        """Where something is to be put, or what is to be opened."""
        if name in self._account.faults.refuse:
            raise _refusal("the server refused that folder", "NOPERM")
        folder = self._account.folders.get(name)
        if folder is None or not folder.selectable:
            raise FolderGoneError("no such folder", code=code)
        return folder

    def _check_quota(self, octets: int) -> None:
        account = self._account
        if account.quota is not None and account.octets + octets > account.quota:
            raise _refusal("the quota is exceeded", "OVERQUOTA")

    def _kept(self, flags: frozenset[str]) -> frozenset[str]:
        keeps = self._account.keeps_flags
        return flags if keeps is None else flags & (keeps | {"\\Deleted"})

    def _told(self, placed: Placed) -> Placed | None:
        return placed if self._account.uidplus else None

    def _leave(self, name: str) -> None:
        """Leaves the open folder if it is this one or stands below it: the server would hang up."""
        below = name + self._account.delimiter
        if self.open_name is not None and (self.open_name == name or self.open_name.startswith(below)):
            self.open_name, self._selected = None, False


def _refusal(text: str, code: str | None) -> ServerError:
    retry = {"EXPUNGEISSUED": Retry.NOW, "SERVERBUG": Retry.LATER}.get(code or "", Retry.NEVER)
    return ServerError(text, code=code, retry=retry)


def _count(left: int | None) -> tuple[int | None, bool]:
    """What is left of a counter, and whether its turn is now."""
    if left is None:
        return None, False
    return (left - 1, False) if left > 0 else (None, True)


def _there(folder: MemoryFolder, uids: Sequence[int]) -> list[int]:
    return [uid for uid in sorted(set(uids)) if uid in folder.messages]


def _set(uids: Sequence[int]) -> str:
    return ",".join(map(str, sorted(set(uids))))


async def _collect(size: int, chunks: AsyncIterable[bytes]) -> bytes:
    raw = bytearray()
    async for chunk in chunks:
        raw += chunk
        if len(raw) > size:
            break
    if len(raw) != size:
        raise ValueError(f"the message was to have {size} octets, and has {'more' if len(raw) > size else len(raw)}")
    return bytes(raw)
