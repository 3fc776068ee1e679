"""The server's side of an account in memory: folders with UIDVALIDITY, UIDs that are never used again, MODSEQ, and
expunges that are remembered (QRESYNC).

The plain methods (`append`, `store_flags`, `move`, …) are what *other* clients do; they take effect at once and wake
whoever idles. It behaves as RFC 9051 and RFC 7162 demand, and misbehaves only through `Faults`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from connectors.memory.faults import Faults
from connectors.model import FlagsChange, FolderStatus, Instant, MessageMeta, SpecialUse
from connectors.port import FolderChange

if TYPE_CHECKING:
    from connectors.memory.line import MemoryLine

SYSTEM_FLAGS: Final = frozenset({"\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"})


@dataclass(slots=True)
class MemoryMessage:
    """One message as the server keeps it; `raw` never changes, `modseq` is that of its last change."""

    uid: int
    raw: bytes
    flags: frozenset[str]
    internal_date: Instant
    modseq: int
    email_id: str | None = None
    labels: frozenset[str] | None = None

    def meta(self, condstore: bool) -> MessageMeta:
        return MessageMeta(
            uid=self.uid,
            flags=self.flags,
            internal_date=self.internal_date,
            size=len(self.raw),
            modseq=self.modseq if condstore else None,
            email_id=self.email_id,
            labels=self.labels,
        )

    def change(self, condstore: bool) -> FlagsChange:
        return FlagsChange(self.uid, self.flags, self.modseq if condstore else None, self.labels)


@dataclass(slots=True)
class MemoryFolder:
    """One folder. `expunged` is the memory that QRESYNC needs: (modseq, uid), ascending by modseq."""

    name: str
    uidvalidity: int
    special_use: SpecialUse | None = None
    selectable: bool = True
    read_only: bool = False
    object_id: str | None = None
    uidnext: int = 1
    highestmodseq: int = 1
    messages: dict[int, MemoryMessage] = field(default_factory=dict)
    expunged: list[tuple[int, int]] = field(default_factory=list)


class Mailstore:
    """The folders of one account. Starts with an empty INBOX.

    What the server offers:
    * `condstore`, and `qresync`, which implies it: without them MODSEQ is kept but never shown;
    * `move` (RFC 6851), `uidplus` (RFC 4315: UID EXPUNGE, and new UIDs told);
    * `object_ids` (RFC 8474): each message has an email id, which goes along with copies and moves;
    * `folder_ids` (RFC 8474): each folder has an identity, which stays with it when it is renamed or renumbered;
    * `alike`: all folders have one UIDVALIDITY, as at servers that take it from the clock, until they are renumbered;
    * `labels` (X-GM-EXT-1): each message has labels, and an email id (X-GM-MSGID);
    * `keeps_flags`: the only flags that it keeps, others are dropped in silence; None: it keeps all;
    * `quota`: how many octets all messages together may have;
    * `prefix`: how names of folders but INBOX must begin (`INBOX.` with a `delimiter` of `.`).

    `now` is what its clock shows: INTERNALDATE of what is appended without.
    """

    def __init__(
        self,
        *,
        condstore: bool = True,
        qresync: bool = True,
        move: bool = True,
        uidplus: bool = True,
        object_ids: bool = False,
        folder_ids: bool = False,
        alike: bool = False,
        labels: bool = False,
        keeps_flags: frozenset[str] | None = None,
        quota: int | None = None,
        delimiter: str = "/",
        prefix: str = "",
        uidvalidity: int = 1,
        now: Instant = 0,
    ) -> None:
        self.condstore = condstore or qresync
        self.qresync = qresync
        self.can_move = move
        self.uidplus = uidplus
        self.object_ids = object_ids
        self.folder_ids = folder_ids
        self.alike = alike
        self.labels = labels
        self.keeps_flags = keeps_flags
        self.quota = quota
        self.delimiter = delimiter
        self.prefix = prefix
        self.now = now
        self.faults = Faults()
        self.folders: dict[str, MemoryFolder] = {}
        self.connections: list[MemoryLine] = []
        self.commands: list[str] = []
        self.subscribed: set[str] = set()
        self._uidvalidity = uidvalidity
        self._email_ids = 0
        self._folder_ids = 0
        self.create_folder("INBOX", special_use=SpecialUse.INBOX)

    @property
    def capabilities(self) -> frozenset[str]:
        words = {"IMAP4REV1", "IDLE", "ESEARCH", "SPECIAL-USE", "CREATE-SPECIAL-USE", "LIST-STATUS"}
        offered = {
            "CONDSTORE": self.condstore,
            "ENABLE": self.condstore,
            "QRESYNC": self.qresync,
            "MOVE": self.can_move,
            "UIDPLUS": self.uidplus,
            "OBJECTID": self.object_ids or self.folder_ids,
            "X-GM-EXT-1": self.labels,
        }
        return frozenset(words | {word for word, has in offered.items() if has})

    @property
    def permanent_flags(self) -> frozenset[str]:
        """As PERMANENTFLAGS says it (RFC 9051 §7.1): `\\*` where any keyword may be made."""
        return SYSTEM_FLAGS | {"\\*"} if self.keeps_flags is None else self.keeps_flags

    @property
    def octets(self) -> int:
        """What all messages take."""
        return sum(len(m.raw) for folder in self.folders.values() for m in folder.messages.values())

    def create_folder(
        self,
        name: str,
        *,
        special_use: SpecialUse | None = None,
        selectable: bool = True,
        read_only: bool = False,
    ) -> MemoryFolder:
        """A new folder with a UIDVALIDITY never used before on this account, unless they are all `alike`."""
        if name in self.folders:
            raise ValueError(f"folder exists: {name}")
        uidvalidity = self._uidvalidity if self.alike else self._new_uidvalidity()
        folder = MemoryFolder(name, uidvalidity, special_use, selectable, read_only)
        if self.folder_ids:
            self._folder_ids += 1
            folder.object_id = f"F{self._folder_ids}"
        self.folders[name] = folder
        return folder

    def delete_folder(self, name: str) -> None:
        """The folder and its messages go; a connection that has it open is told BYE, as Dovecot does."""
        del self.folders[name]
        for connection in list(self.connections):
            if connection.open_name == name:
                connection.drop("the folder was deleted")

    def rename_folder(self, old: str, new: str) -> None:
        """Children follow (RFC 9051 §6.3.6). UIDs and UIDVALIDITY stay."""
        if new in self.folders:
            raise ValueError(f"folder exists: {new}")
        below = old + self.delimiter
        renamed = {n: new + n[len(old) :] for n in self.folders if n == old or n.startswith(below)}
        for before, after in renamed.items():
            folder = self.folders.pop(before)
            folder.name = after
            self.folders[after] = folder
        for connection in list(self.connections):
            if connection.open_name in renamed:
                connection.drop("the folder was renamed")

    def change_uidvalidity(self, name: str) -> dict[int, int]:
        """The server rebuilt its index: a new UIDVALIDITY, all messages renumbered from 1. Returns old → new UID."""
        folder = self.folders[name]
        folder.uidvalidity = self._new_uidvalidity()
        old = [folder.messages[uid] for uid in sorted(folder.messages)]
        folder.messages, folder.expunged, folder.uidnext, folder.highestmodseq = {}, [], 1, 1
        numbers: dict[int, int] = {}
        for message in old:
            numbers[message.uid] = self._add(
                folder, message.raw, message.flags, message.internal_date, message.email_id, message.labels
            )
        for connection in list(self.connections):
            if connection.open_name == name:
                connection.drop("the folder was rebuilt")
        return numbers

    def append(
        self,
        name: str,
        raw: bytes,
        *,
        internal_date: Instant,
        flags: Iterable[str] = (),
        email_id: str | None = None,
        labels: Iterable[str] = (),
    ) -> int:
        """APPEND or a delivery. Returns the UID."""
        folder = self.folders[name]
        uid = self._add(folder, raw, frozenset(flags), internal_date, email_id, frozenset(labels))
        self._tell(name, FolderChange(exists=len(folder.messages)))
        return uid

    def store_flags(self, name: str, uid: int, flags: Iterable[str]) -> None:
        """Replace the flags; equal flags change nothing, MODSEQ included."""
        folder = self.folders[name]
        message = folder.messages[uid]
        wanted = frozenset(flags)
        if wanted == message.flags:
            return
        message.flags = wanted
        message.modseq = self._next_modseq(folder)
        self._tell(name, FolderChange(flags=True))

    def store_labels(self, name: str, uid: int, labels: Iterable[str]) -> None:
        """Replace the labels, where there are any."""
        folder = self.folders[name]
        message = folder.messages[uid]
        wanted = frozenset(labels)
        if wanted == message.labels:
            return
        message.labels = wanted
        message.modseq = self._next_modseq(folder)
        self._tell(name, FolderChange(flags=True))

    def expunge(self, name: str, uid: int) -> None:
        """The message goes for good; its UID is never used again."""
        folder = self.folders[name]
        del folder.messages[uid]
        folder.expunged.append((self._next_modseq(folder), uid))
        self._tell(name, FolderChange(expunged=True))

    def copy(self, source: str, uid: int, target: str) -> int:
        """COPY: a new message with the same bytes, flags, date, email id and labels. Returns its UID."""
        message = self.folders[source].messages[uid]
        return self.append(
            target,
            message.raw,
            internal_date=message.internal_date,
            flags=message.flags,
            email_id=message.email_id,
            labels=message.labels or (),
        )

    def move(self, source: str, uid: int, target: str) -> int:
        """MOVE (RFC 6851). Returns the UID in `target`."""
        new = self.copy(source, uid, target)
        self.expunge(source, uid)
        return new

    def drop_connections(self, reason: str = "connection reset") -> None:
        """Every open line drops now."""
        for connection in list(self.connections):
            connection.drop(reason)

    def status_of(self, folder: MemoryFolder) -> FolderStatus:
        return FolderStatus(
            uidvalidity=folder.uidvalidity,
            uidnext=folder.uidnext,
            exists=max(0, len(folder.messages) + self.faults.exists_lie.get(folder.name, 0)),
            highestmodseq=folder.highestmodseq if self.condstore else None,
        )

    def _new_uidvalidity(self) -> int:
        self._uidvalidity += 1
        return self._uidvalidity

    def _next_modseq(self, folder: MemoryFolder) -> int:
        folder.highestmodseq += 1
        return folder.highestmodseq

    def _add(
        self,
        folder: MemoryFolder,
        raw: bytes,
        flags: frozenset[str],
        internal_date: Instant,
        email_id: str | None,
        labels: frozenset[str] | None,
    ) -> int:
        uid = folder.uidnext
        folder.uidnext += 1
        if email_id is None and (self.object_ids or self.labels):
            self._email_ids += 1
            email_id = str(self._email_ids)
        folder.messages[uid] = MemoryMessage(
            uid,
            bytes(raw),
            flags,
            internal_date,
            self._next_modseq(folder),
            email_id,
            (labels or frozenset()) if self.labels else None,
        )
        return uid

    def _tell(self, name: str, change: FolderChange) -> None:
        for connection in list(self.connections):
            if connection.open_name == name:
                connection.notice(change)
