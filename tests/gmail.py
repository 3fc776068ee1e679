"""A small Gmail as it speaks on the line: one message with labels, which stands in a folder for each of them and once
more in All Mail, or in Trash or Spam alone.

Folders are views: what is changed in one shows in all. As measured by others: X-GM-LABELS leaves out the label of the
folder that is open; \\Deleted takes that label away at once (auto-expunge), does nothing in All Mail, and removes for
ever only in Trash and Spam; what goes there loses its labels; the same bytes appended again are the same message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.fakeimap import FakeImap, Mail, Talk, in_set

ALL, DRAFTS, IMPORTANT = "[Gmail]/Alle Nachrichten", "[Gmail]/Entw&APw-rfe", "[Gmail]/Wichtig"
SENT, SPAM, STARRED, TRASH = "[Gmail]/Gesendet", "[Gmail]/Spam", "[Gmail]/Markiert", "[Gmail]/Papierkorb"
USES = {
    ALL: "\\All",
    DRAFTS: "\\Drafts",
    IMPORTANT: "\\Important",
    SENT: "\\Sent",
    SPAM: "\\Junk",
    STARRED: "\\Flagged",
    TRASH: "\\Trash",
}
_VIEWS = {"INBOX": "\\Inbox", DRAFTS: "\\Draft", IMPORTANT: "\\Important", SENT: "\\Sent", STARRED: "\\Starred"}
_PLACES = (ALL, SPAM, TRASH)
FIRST_ID = 1_278_455_344_230_334_860


@dataclass
class Letter:
    """One message. `labels` by their names on the wire; `place`: All Mail, Trash or Spam."""

    id: int
    raw: bytes
    date: bytes
    labels: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)
    place: str = ALL
    at: dict[str, Mail] = field(default_factory=dict)


class Gmail(FakeImap):
    """The account. `hidden`: folders that people left out of IMAP."""

    def __init__(self, *user_labels: str, hidden: frozenset[str] = frozenset()) -> None:
        names = [name for name in ("INBOX", *USES, *user_labels) if name not in hidden]
        super().__init__(
            {name: [] for name in names},
            capabilities=b"IMAP4rev1 UNSELECT IDLE NAMESPACE ENABLE MOVE UIDPLUS X-GM-EXT-1 SPECIAL-USE LITERAL+",
            uidvalidity={name: number for number, name in enumerate(names, start=1)},
        )
        self.letters: list[Letter] = []
        self.delivered = 0
        self.lies |= {"LIST": self._list, "UID FETCH": self._fetch, "APPEND": self._append}
        self.lies |= dict.fromkeys(("UID STORE", "UID COPY", "UID MOVE", "UID EXPUNGE"), self._change)

    # What others do.

    def deliver(self, raw: bytes, *labels: str, flags: frozenset[str] = frozenset(), date: bytes = b"") -> Letter:
        """New mail, or what was written on the web."""
        shown = Mail(0, raw, b"", date).shown_date
        self.delivered += 1
        letter = Letter(FIRST_ID + self.delivered, raw, shown, set(labels), set(flags))
        self.letters.append(letter)
        self.settle()
        return letter

    def put_into(self, letter: Letter, place: str) -> None:
        """Into Trash or Spam, which takes the labels, or back."""
        letter.place = place
        if place != ALL:
            letter.labels.clear()
        self.settle()

    def remove(self, letter: Letter) -> None:
        """For ever."""
        self.letters.remove(letter)
        self.settle()

    def settle(self) -> None:
        """Show every message where it belongs."""
        for name, mails in self.folders.items():
            self.next_uid(name)  # what goes was counted
            shown = {id(letter.at[name]) for letter in self.letters if name in letter.at and self._is_in(letter, name)}
            mails[:] = [mail for mail in mails if id(mail) in shown]
        for letter in self.letters:
            for name in [name for name in letter.at if not self._is_in(letter, name)]:
                del letter.at[name]
            for name in self.folders:
                if self._is_in(letter, name) and name not in letter.at:
                    self.put(name, letter.raw, date=letter.date)
                    letter.at[name] = self.folders[name][-1]
            for mail in letter.at.values():
                mail.flags = " ".join(sorted(letter.flags)).encode()

    def _is_in(self, letter: Letter, name: str) -> bool:
        if name in _PLACES:
            return letter.place == name
        if name == STARRED:
            return letter.place == ALL and "\\Flagged" in letter.flags
        return letter.place == ALL and _VIEWS.get(name, name) in letter.labels

    def _letter(self, folder: str, mail: Mail) -> Letter:
        return next(letter for letter in self.letters if letter.at.get(folder) is mail)

    # What it says.

    async def _list(self, talk: Talk, rest: bytes) -> None:
        for name in self.folders:
            use = f" {USES[name]}" if name in USES else ""
            await talk.send(f'* LIST (\\HasNoChildren{use}) "/" "{name}"'.encode())
        await talk.send(b'* LIST (\\HasChildren \\Noselect) "/" "[Gmail]"')
        await talk.ok()

    async def _fetch(self, talk: Talk, rest: bytes) -> None:
        for number, mail in enumerate(self.folders[talk.folder], start=1):
            if not in_set(rest.split(b" ")[2], mail.uid):
                continue
            letter = self._letter(talk.folder, mail)
            labels = letter.labels | ({"\\Starred"} if "\\Flagged" in letter.flags else set())
            shown = sorted(labels - {_VIEWS.get(talk.folder, talk.folder)})
            quoted = " ".join('"' + label.replace("\\", "\\\\") + '"' for label in shown)
            said = f"* {number} FETCH (UID {mail.uid} FLAGS ({mail.flags.decode()})"
            if b"X-GM-MSGID" in rest:
                said += f" X-GM-MSGID {letter.id}"
            if b"X-GM-LABELS" in rest:
                said += f" X-GM-LABELS ({quoted})"
            head = said.encode()
            if b"INTERNALDATE" in rest:
                head += b' INTERNALDATE "%s" RFC822.SIZE %d' % (letter.date, len(mail.raw))
            if b"BODY.PEEK[HEADER]" in rest:
                header = mail.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                head += b" BODY[HEADER] {%d}\r\n%s" % (len(header), header)
            elif b"BODY.PEEK[]" in rest:
                head += b" BODY[] {%d}\r\n%s" % (len(mail.raw), mail.raw)
            await talk.send(head + b")")
        await talk.ok()

    # What it does.

    async def _append(self, talk: Talk, rest: bytes) -> None:
        name = re.findall(rb'"([^"]*)"', rest)[0].decode()
        flags = re.search(rb'" \(([^)]*)\)', rest)
        letter = next((one for one in self.letters if one.raw == talk.literal), None)
        if letter is None:
            letter = self.deliver(talk.literal, flags=frozenset(flags[1].decode().split() if flags else ()))
        self._enter(letter, name)
        self.settle()
        await talk.ok(b"[APPENDUID %d %d] done" % (self.uidvalidity[name], letter.at[name].uid))

    async def _change(self, talk: Talk, rest: bytes) -> None:
        words, here = rest.split(b" "), talk.folder
        before = list(self.folders[here])
        meant = [self._letter(here, mail) for mail in before if in_set(words[2], mail.uid)]
        uids = [letter.at[here].uid for letter in meant]
        command = words[1].upper()
        code = b""
        if command == b"STORE":
            self._store(meant, here, rest)
        elif command in (b"COPY", b"MOVE"):
            to = re.findall(rb'"([^"]*)"', rest)[0].decode()
            for letter in meant:
                if command == b"MOVE":
                    letter.labels.discard(_VIEWS.get(here, here))
                self._enter(letter, to)
            self.settle()
            there = b",".join(b"%d" % letter.at[to].uid for letter in meant)
            code = b"[COPYUID %d %s %s] " % (self.uidvalidity[to], b",".join(b"%d" % uid for uid in uids), there)
        left = [id(mail) for mail in self.folders[here]]
        gone = [number for number, mail in enumerate(before, start=1) if id(mail) not in left]
        if command == b"MOVE":
            await talk.send(b"* OK " + code + b"moved")
            code = b""
        await talk.send(*(b"* %d EXPUNGE" % number for number in reversed(gone)))
        if command == b"STORE" and b".SILENT" not in rest:
            await talk.send(
                *(
                    b"* %d FETCH (UID %d FLAGS (%s))" % (n, m.uid, m.flags)
                    for n, m in enumerate(self.folders[here], start=1)
                    if m.uid in uids
                )
            )
        await talk.ok(code + b"done")

    def _enter(self, letter: Letter, name: str) -> None:
        if name in _PLACES:
            letter.place = name
            if name != ALL:
                letter.labels.clear()
        else:
            letter.place = ALL
            letter.labels.add(_VIEWS.get(name, name))

    def _store(self, meant: list[Letter], here: str, rest: bytes) -> None:
        words = re.findall(r'"([^"]*)"|([^ ]+)', rest.partition(b"(")[2].rstrip(b")").decode())
        named = {quoted or atom for quoted, atom in words}
        adds = rest.split(b" ")[3].startswith(b"+")
        for letter in meant:
            if b"X-GM-LABELS" in rest:
                letter.labels = letter.labels | named if adds else letter.labels - named
                continue
            if adds and "\\Deleted" in named and here in (TRASH, SPAM):
                self.letters.remove(letter)
            elif adds and "\\Deleted" in named:
                letter.labels.discard(_VIEWS.get(here, here))
            changed = named - {"\\Deleted"}
            letter.flags = letter.flags | changed if adds else letter.flags - changed
        self.settle()
