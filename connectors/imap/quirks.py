"""What mail servers do otherwise than the RFCs say, or than other servers do, and what we do about it. Pure data.

One entry a habit. What can be understood from everybody is understood from everybody: nothing here asks which server it
is, since names and versions in greetings lie. An entry that is recognised by the server's words holds them.
`tests/matrix.py` measures the servers that can be installed; docs/servers.md is its result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from connectors.model import SpecialUse


@dataclass(frozen=True, slots=True)
class Quirk:
    """`seen` at which servers; `habit`: what they do; `answer`: what we do; `reason`: why that is right."""

    seen: str
    habit: str
    answer: str
    reason: str
    words: re.Pattern[str] | None = None

    def find(self, text: str) -> re.Match[str] | None:
        """Where the server's text has the words of this habit."""
        return self.words.search(text) if self.words is not None else None


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


THROTTLED: Final = Quirk(
    seen="Gmail, Exchange, Yahoo, Courier",
    habit="ask for a pause in words, without a response code",
    answer="the words count as [UNAVAILABLE]",
    reason="RFC 5530 §3 has codes for it since 2009. `try again` alone is not among the words: it also stands behind "
    "wrong passwords, and repeating those locks accounts",
    words=_words(
        r"too many|throttl|temporar|try again later|maximum number of connections|not connected|server (is )?busy"
        r"|overload"
    ),
)

BACKOFF: Final = Quirk(
    seen="Exchange",
    habit="`Request is throttled. Suggested Backoff Time: 299961 milliseconds`",
    answer="that long a pause",
    reason="no RFC has a code for how long",
    words=_words(r"backoff time: (\d{1,9}) milliseconds"),
)

OVER_LIMITS: Final = Quirk(
    seen="Gmail",
    habit="`[OVERQUOTA] Account exceeded command or bandwidth limits` to any command, and with BYE",
    answer="the words count as [UNAVAILABLE]",
    reason="RFC 5530 §3 means the room that messages take. Where it was taken for that, a change was given up; at a "
    "login it counted as a wrong password",
    words=_words(r"(command|bandwidth) limits?\b"),
)

LOGIN_FAILS_INSIDE: Final = Quirk(
    seen="Cyrus, Gmail",
    habit="`NO Login failed: generic failure` when its own password service can't be reached; `NO System Error "
    "(Failure)`",
    answer="tried again later, unlike a wrong password",
    reason="SASL's error for every fault inside (-1); a wrong password is `authentication failure` there. RFC 5530 §3 "
    "would say [UNAVAILABLE]",
    words=_words(r"\bgeneric failure\b|\bsystem error\b"),
)

GONE: Final = Quirk(
    seen="Dovecot, Cyrus, Courier",
    habit="say in words only that a folder does not exist",
    answer="the words count as [NONEXISTENT]",
    reason="RFC 5530 §3: the code is no duty",
    words=_words(r"doesn'?t exist|does not exist|no such|not found|nonexistent|unknown mailbox"),
)

REFUSED_CHANGE: Final = (
    ("OVERQUOTA", _words(r"\bquota\b|over ?quota|no space|disk full")),
    ("ALREADYEXISTS", _words(r"already exists|mailbox exists")),
    (
        "NONEXISTENT",
        _words(r"(mailbox|folder).{0,200}(doesn'?t exist|does not exist|not found)|(no such|unknown) (mailbox|folder)"),
    ),
    (
        "THROTTLED",
        _words(r"throttl|temporar|try again later|server (is )?busy|overload|too many .{0,40}(connections|requests)"),
    ),
    ("INUSE", _words(r"\block(ed)?\b|in use")),
    ("NOPERM", _words(r"permission denied|access denied|not permitted|not allowed|read-only")),
    ("SERVERBUG", _words(r"internal error|system error|i/o error")),
)
"""Which code of RFC 5530 §3 the words of a refused change stand for; the first that fits."""

FILES_SENT_ITSELF: Final = Quirk(
    seen="Gmail, Exchange",
    habit="file what is sent through their submission server, and may rewrite it (Exchange: another Message-ID)",
    answer="ours is put into Sent only if nothing appeared there for so long",
    reason="RFC 6409 §8.2 lets a submission server change messages; two copies of one message would be left otherwise",
    words=_words(r"\bgsmtp\b|\.google\.com ESMTP|\bsmtp\.gmail\.com\b|Microsoft ESMTP MAIL Service|\.outlook\.com\b"),
)
"""Known by the greeting of the submission server."""

FILED_WITHIN_S: Final = 180
"""Seconds that are waited for a server that files what is sent itself."""


def files_sent_itself_s(greeting: str) -> int:
    """How long the server behind this greeting may take to file what was sent; 0: it does not."""
    return FILED_WITHIN_S if FILES_SENT_ITSELF.find(greeting) else 0


ATTRIBUTES: Final = {
    "\\all": SpecialUse.ALL,
    "\\allmail": SpecialUse.ALL,
    "\\archive": SpecialUse.ARCHIVE,
    "\\drafts": SpecialUse.DRAFTS,
    "\\flagged": SpecialUse.FLAGGED,
    "\\starred": SpecialUse.FLAGGED,
    "\\junk": SpecialUse.JUNK,
    "\\spam": SpecialUse.JUNK,
    "\\sent": SpecialUse.SENT,
    "\\trash": SpecialUse.TRASH,
}
"""Special uses as LIST names them: RFC 6154 §2, and the words of XLIST, which some servers still send."""

QUIRKS: Final = (
    THROTTLED,
    BACKOFF,
    OVER_LIMITS,
    LOGIN_FAILS_INSIDE,
    GONE,
    FILES_SENT_ITSELF,
    Quirk(
        "Courier and others",
        "refuse a change in words, without a response code",
        "the words count as the code that fits (`REFUSED_CHANGE`)",
        "RFC 5530 §3: it decides whether asking again can help",
    ),
    Quirk(
        "Cyrus, Courier",
        "refuse a login with a bare NO",
        "counts as wrong credentials: not tried again with the same ones",
        "RFC 9051 §6.2.3 knows no other meaning, and trying again locks accounts",
    ),
    Quirk(
        "Gmail, older servers",
        "name special uses as XLIST did (`\\AllMail`, `\\Spam`, `\\Starred`)",
        "understood",
        "the words of before RFC 6154; see `ATTRIBUTES`",
    ),
    Quirk(
        "Gmail",
        "leaves the label of the open folder out of X-GM-LABELS",
        "it is added, unless that is All Mail, Trash or Spam",
        "no RFC, but Gmail's own pages: folders would contradict each other where All Mail is hidden from IMAP",
    ),
    Quirk(
        "Gmail",
        "keeps what is expunged in a folder, but for Trash and Spam",
        "what is deleted for ever is moved to Trash first",
        "RFC 9051 §6.4.9: it would be gone; a label is all that goes there",
    ),
    Quirk(
        "Cyrus", "writes special uses in lower case", "compared without case", "RFC 9051 §9: attributes have no case"
    ),
    Quirk(
        "Cyrus",
        "once in a while gives a new folder the use of another one as well (`\\archive`)",
        "of several folders with one use those have it whose name means it, if there are any",
        "RFC 6154 §2 lets several have one; but mail is moved to such a folder, and it can't be deleted",
    ),
    Quirk(
        "Cyrus",
        "gives one UIDVALIDITY to all folders that are made in one second, and lets them swap their names",
        "a folder is known by its MAILBOXID, where the server tells one; else, where folders share a UIDVALIDITY, "
        "the newest messages are looked at before a change is believed",
        "RFC 9051 §2.3.1.1: name, UIDVALIDITY and UID together never name another message; RFC 8474 §4.2",
    ),
    Quirk(
        "pymap",
        "gives a renamed folder another MAILBOXID",
        "one that nobody had tells nothing: a few messages are compared",
        "RFC 8474 §4: it stays with the folder",
    ),
    Quirk(
        "Cyrus 3.6.1",
        "answers `STATUS (MAILBOXID)` with bytes out of freed memory, other ones each time",
        "MAILBOXID is taken from SELECT and EXAMINE, and STATUS is not asked for it",
        "RFC 8474 §4.2 makes it part of every SELECT, where it costs nothing",
    ),
    Quirk(
        "Courier, pymap",
        "have no SPECIAL-USE",
        "Sent, Drafts, Trash, Junk and Archive are known by their names, in many languages",
        "RFC 6154 is an extension",
    ),
    Quirk(
        "Courier",
        "puts every folder inside INBOX",
        "names are full names; NAMESPACE, or else LIST, says where new ones go",
        "RFC 2342: a personal namespace may have a prefix",
    ),
    Quirk(
        "Courier",
        "opens a folder without saying UIDNEXT",
        "the highest UID that is listed stands for it",
        "RFC 3501 §6.3.1 has it as a REQUIRED response since 2003, RFC 2060 had not",
    ),
    Quirk(
        "many",
        "tell a UIDNEXT or EXISTS that can't be",
        "not believed: nothing is left out, nothing deleted",
        "RFC 9051 §2.3.1.1: each message has a UID below UIDNEXT, and it never falls",
    ),
    Quirk(
        "Cyrus",
        "gives two deliveries of the same bytes one EMAILID",
        "EMAILID is not asked for: it says that contents are equal, never that two messages are one",
        "RFC 8474 §5.1 allows it; X-GM-MSGID alone names a message",
    ),
    Quirk(
        "proxies in front of servers",
        "offer IDLE and refuse it",
        "asked at an interval, as a server without it",
        "RFC 2177 §3: IDLE may be answered NO",
    ),
    Quirk(
        "servers under load",
        "end each IDLE at once by themselves",
        "a pause before the next",
        "RFC 2177 §3 leaves it open; without a pause thousands follow in a second",
    ),
    Quirk(
        "routers, dead servers",
        "forget a line in silence",
        "IDLE is issued anew before long, and each command has a time-out",
        "RFC 2177 §3 asks for 29 minutes; most routers forget sooner",
    ),
    Quirk(
        "Dovecot, Courier, pymap",
        "hang up at the 21st, 10th and 6th bad command",
        "nothing is sent that is not offered",
        "RFC 9051 §6: a client looks at CAPABILITY first",
    ),
    Quirk(
        "Courier",
        "does not show a message to the session that has just appended it",
        "APPENDUID is believed; the folder is opened anew before it is looked at",
        "RFC 4315 §3, RFC 9051 §7.4.1",
    ),
    Quirk(
        "Courier",
        "carries out STORE in a folder that was opened with EXAMINE",
        "nothing is sent that changes a folder unless it was opened with SELECT",
        "RFC 9051 §6.3.3: EXAMINE permits no changes",
    ),
    Quirk(
        "Courier",
        "refuses to APPEND to a folder that the same session has open with EXAMINE",
        "that folder is opened with SELECT before",
        "RFC 9051 §6.3.12: APPEND asks for no folder to be open, and is no change by way of the open one",
    ),
    Quirk(
        "Courier",
        "refuses a change to a folder without saying why",
        "LIST is asked whether a folder is in the way, or there is none",
        "RFC 5530 §3 has ALREADYEXISTS and NONEXISTENT",
    ),
    Quirk(
        "Courier",
        "answers OK to RENAME of a folder that is not there",
        "what LIST tells afterwards counts",
        "RFC 9051 §6.3.6: it is an error",
    ),
    Quirk(
        "pymap",
        "hangs up on CREATE of a folder that is there, and on RENAME to one",
        "what LIST tells on the next line counts, and nothing is repeated that was done",
        "RFC 9051 §6.3.4, §6.3.6: an error is a NO",
    ),
    Quirk(
        "pymap",
        "makes a message without content of a COPY",
        "MOVE is used where offered, and COPY only without it",
        "RFC 9051 §6.4.7",
    ),
    Quirk(
        "some",
        "tell nothing of the flags that a STORE has changed, or not the last",
        "FETCH asks what stands there",
        "RFC 9051 §6.4.6 wants an answer unless it was .SILENT",
    ),
    Quirk(
        "go-imap",
        "names only `\\*` as what it keeps, and keeps \\Seen and all others too",
        "asked to; what stands there after a change is what counts",
        "RFC 9051 §7.1: PERMANENTFLAGS names the system flags as well",
    ),
    Quirk(
        "Twisted",
        "lists folders with the flags that messages may have, `\\Flagged` among them",
        "beside `\\Seen`, `\\Answered` or `\\Deleted` no attribute tells a use; names do",
        "RFC 6154 §2: `\\Flagged` is a view of other folders' messages, which is not looked at",
    ),
    Quirk(
        "Dovecot and Mailutils with mbox",
        "give an empty folder another UIDVALIDITY each second, until something is put there",
        "where a folder is empty on both sides, nothing waits for its messages to be recognised",
        "RFC 9051 §2.3.1.1: it changes where UIDs would be used again; an empty file has no place to keep it",
    ),
    Quirk(
        "hoodiecrow",
        "answers a search that finds nothing with OK alone",
        "in a folder that has messages the dates of all are fetched, and tell",
        "RFC 9051 §7.3.4: there is a response; without one nobody knows that nothing was found",
    ),
    Quirk(
        "Twisted",
        "answers BAD to every SEARCH SINCE",
        "where a search is refused, the dates of all messages are fetched",
        "RFC 9051 §6.4.4 makes it a duty; without it no mail of the folder would come",
    ),
    Quirk(
        "go-imap",
        "hangs up on each search of a folder that holds mail which it can't parse",
        "after two such lines that folder is not searched any more; the dates of all its messages are fetched",
        "RFC 9051 §6.4.4: without a search no mail of the folder would come, nor of those behind it",
    ),
    Quirk(
        "Cyrus",
        "refuses to make a folder with a use that it keeps for others",
        "the folder is made without",
        "RFC 6154 §3: [USEATTR]",
    ),
    Quirk(
        "Exchange and others",
        "tell a wrong RFC822.SIZE",
        "the octets that came are counted",
        "RFC 9051 §7.5.2: a literal says its own length",
    ),
    Quirk(
        "Exchange, pymap",
        "drop keywords",
        "what stands there after a change is what counts",
        "RFC 9051 §7.1: PERMANENTFLAGS tells which are kept",
    ),
    Quirk(
        "pymap, Cyrus, Dovecot",
        "store other bytes than they were given (line ends, NUL, 8-bit in headers)",
        "a copy is judged against what the server serves",
        "RFC 9051 §6.4.5: what FETCH says is the message",
    ),
    Quirk(
        "several",
        "answer flags and body of a FETCH in two responses",
        "joined by UID",
        "RFC 9051 §7.5.2 allows it",
    ),
    Quirk(
        "several; hoodiecrow with BAD",
        "refuse a whole FETCH because of one message",
        "asked again message by message; the one is set aside",
        "RFC 9051 §6.4.5 says nothing of parts",
    ),
    Quirk(
        "several",
        'send bare LF, empty lines, needless `+`, the delimiter `"\\"` unescaped, names with blanks unquoted',
        "understood where nothing else can be meant",
        "RFC 9051 §2.2, §7.6, §9 forbid them, and nothing is lost by reading them",
    ),
)
