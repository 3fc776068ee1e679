"""What the core says in English with what only it knows (which, how many, since when), in the reader's language:
mailboxes of themselves, alarms, parts of the system, halted purges, guards, refused sign-ins.

A sentence that is known is said again with its figures; what is not known, such as what another program said, stays as
it came, marked as English.
"""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

from mailgate.admin.languages import ENGLISH, Language, marked
from mailgate.clock import from_rfc3339

_KNOWN: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        # What a mailbox says of itself.
        (r"switched off", marked("switched off")),
        (r"removed", marked("removed")),
        (r"waiting in line", marked("waiting in line")),
        (r"(?P<what>.*); enter the credentials again", marked("%(what)s – enter the credentials again")),
        (
            r"(?P<what>.*); tried again when the settings change, or at the next start",
            marked("%(what)s – tried again when the settings change, or at the next start"),
        ),
        (r"(?P<what>.*); tried again at (?P<when>\S+)", marked("%(what)s – tried again %(when)s UTC")),
        (r"no process has this mailbox( since .+)?", marked("no process of the gateway has this mailbox")),
        (
            r"takes turns with other mailboxes at (?P<host>\S+) \(sync\.host_connections\)",
            marked("takes turns with other mailboxes at %(host)s (sync.host_connections)"),
        ),
        (
            r"the server refused the user name or password: (?P<said>.*)",
            marked("the server refused the login: %(said)s"),
        ),
        (r"the connection was lost(?P<said>.*)", marked("the connection was lost%(said)s")),
        (
            r"cannot connect to (?P<host>.+), port (?P<port>\d+): (?P<said>.*)",
            marked("%(host)s, port %(port)s, can't be reached: %(said)s"),
        ),
        (
            r"TLS with (?P<host>\S+) failed: (?P<said>.*)",
            marked("the connection to %(host)s can't be secured: %(said)s"),
        ),
        (r"switched off: all \d+ seats are in use.*", marked("switched off: all seats are in use")),
        (r"plan \S+ has no synchronization", marked("the plan has no synchronization")),
        (
            r"the server has no IDLE: it is asked at an interval",
            marked("the server has no IDLE: it is asked at an interval"),
        ),
        (r"switched off: plan .*", marked("switched off: the plan allows no more mailboxes")),
        # Alarms.
        (
            r"no purge over all tenants for (?P<count>\d+) days: (?P<what>.*)",
            marked("no purge over all tenants for %(count)s days: %(what)s"),
        ),
        (
            r"no purge over all tenants for (?P<count>\d+) hours: (?P<what>.*)",
            marked("no purge over all tenants for %(count)s hours: %(what)s"),
        ),
        (r"a purge that began (?P<when>\S+) can't go on", marked("a purge that began %(when)s UTC can't go on")),
        (r"none ever ended", marked("none ever ended")),
        (r"the last one ended (?P<when>\S+)", marked("the last one ended %(when)s UTC")),
        (
            r"(?P<what>the clock went (?:back|forward).*)\. Set the clock right, or approve it \(approve_clock\)\.",
            marked("%(what)s. Set the clock right, or approve it."),
        ),
        (
            r"the clock went back: it is (?P<when>\S+), the latest time on record is (?P<then>\S+)",
            marked("the clock went back: it is %(when)s UTC, the latest time on record is %(then)s UTC"),
        ),
        (
            r"the clock went forward: it is (?P<when>\S+), the latest time on record is (?P<then>\S+)",
            marked("the clock went forward: it is %(when)s UTC, the latest time on record is %(then)s UTC"),
        ),
        (
            r"(?P<count>\d+) blobs? can't be erased, the first since (?P<when>\S+): (?P<what>.*)",
            marked("%(count)s stored objects can't be erased, the first since %(when)s UTC: %(what)s"),
        ),
        (
            r"its plan ['\"](?P<plan>.*)['\"] is not in the catalogue",
            marked("its plan %(plan)s is not in the catalogue"),
        ),
        (r"entries since (?P<when>\S+) are not signed", marked("entries since %(when)s UTC are not signed")),
        (
            r"entry (?P<index>\d+) of the purge log is not what was hashed: .*",
            marked("entry %(index)s of the purge log is not what was hashed"),
        ),
        (
            r"\S+\.checkpoint, the last of the purge log of tenant (?P<tenant>\S+), is gone from ledger\.witness: .*",
            marked("the last checkpoint of the purge log of %(tenant)s is gone from ledger.witness"),
        ),
        (
            r"the words of (?P<copies>\d+) purged copies are not taken out of the index since (?P<when>\S+)",
            marked("the words of %(copies)s purged copies are not taken out of the index since %(when)s UTC"),
        ),
        (
            r"the checkpoint of (?P<count>\d+) entries of tenant (?P<tenant>\S+) in the database is not the one .*",
            marked("the checkpoint of %(count)s entries of %(tenant)s in the database is not the one that was signed"),
        ),
        (
            r"the purge log of tenant (?P<tenant>\S+) has (?P<size>\d+) entries, but (?P<count>\d+) were signed: .*",
            marked("the purge log of %(tenant)s has %(size)s entries, but %(count)s were signed"),
        ),
        (
            r"the first (?P<count>\d+) entries of the purge log of tenant (?P<tenant>\S+) are not those .*",
            marked("the first %(count)s entries of the purge log of %(tenant)s are not those that were signed"),
        ),
        (
            r"webhook (?P<id>\w{26}) to (?P<host>\S+): (?P<what>((?!; webhook ).)*)",
            marked("webhook %(id)s to %(host)s: %(what)s"),
        ),
        (r"(?P<event>[a-z_.]+( \S+)?) is not delivered", marked("%(event)s is not delivered")),
        (
            r"nothing could be written for seconds: .*",
            marked("Nothing could be written for seconds: a program holds the database, or its disk is slow."),
        ),
        (r"no answer within (?P<seconds>[\d.]+) s", marked("no answer within %(seconds)s s")),
        (
            r"the receiver answered (?P<status>\d+) \(redirects are not followed\)",
            marked("the receiver answered %(status)s (redirects are not followed)"),
        ),
        (r"the receiver answered (?P<status>\d+)", marked("the receiver answered %(status)s")),
        # Parts of the system.
        (r"the database does not answer: (?P<said>.*)", marked("the database does not answer: %(said)s")),
        (
            r"nothing can be written: (?P<said>.*); nothing is purged until it can",
            marked("nothing can be written: %(said)s"),
        ),
        (r"not working: (?P<names>[^;]*); the log says why", marked("not working: %(names)s. The log says why.")),
        (r"the plans that held before hold on", marked("the plans that held before hold on")),
        (
            r"(?P<count>\d+) events wait for their place in the feed since (?P<when>\S+)",
            marked("%(count)s events wait for their place in the feed since %(when)s UTC"),
        ),
        (
            r"on the same disk as the database: a rollback of both would go unseen; set ledger\.witness elsewhere",
            marked(
                "on the same disk as the database: a rollback of both would go unseen. Set ledger.witness elsewhere."
            ),
        ),
        (
            r"(?P<folder>\S+) is not there \(ledger\.witness\): .*",
            marked("%(folder)s is not there (ledger.witness): no log can be signed until it is back"),
        ),
        (
            r"(?P<folder>\S+) is not the witness of before \(ledger\.witness\): .*",
            marked("%(folder)s is not the witness of before (ledger.witness): put its files there"),
        ),
        (
            r"(?P<folder>\S+) is the witness of another installation \(ledger\.witness\)",
            marked("%(folder)s is the witness of another installation (ledger.witness)"),
        ),
        # Purges that halted.
        (
            r"brake: (?P<what>.*?)(\. Nothing (more )?of theirs was purged; look, then approve it \(approve_brake\))?",
            marked("stopped by the brake, so nothing more of theirs was purged: %(what)s"),
        ),
        (
            r"run (?P<run>\w{26}) halted, (?P<going>\d+) of (?P<copies>\d+) copies would go",
            marked("purge %(run)s halted, %(going)s of %(copies)s copies would go"),
        ),
        (
            (
                r"run (?P<run>\w{26}) halted, (?P<going>\d+) of (?P<copies>\d+) copies would go, "
                r"(?P<gone>\d+) of them went before it stopped"
            ),
            marked("purge %(run)s halted, %(going)s of %(copies)s copies would go, %(gone)s of them went before"),
        ),
        (
            r"(?P<tenant>[A-Za-z0-9._-]{1,64}): (?P<going>\d+) of (?P<copies>\d+) copies would go",
            marked("%(tenant)s: %(going)s of %(copies)s copies would go"),
        ),
        (
            (
                r"(?P<tenant>[A-Za-z0-9._-]{1,64}): (?P<going>\d+) of (?P<copies>\d+) copies would go, "
                r"(?P<gone>\d+) of them went before it stopped"
            ),
            marked("%(tenant)s: %(going)s of %(copies)s copies would go, %(gone)s of them went before it stopped"),
        ),
        (
            r"(?P<what>[^;]* copies would go[^;]*) \((?P<approved>\d+) were approved\)",
            marked("%(what)s (approved: %(approved)s)"),
        ),
        # Guards.
        (
            r"the folder ['\"](?P<folder>.*)['\"] is no more at the server, where (?P<count>\d+) messages stood",
            marked("the folder %(folder)s is no more at the server, where %(count)s messages stood"),
        ),
        (
            r"the folder ['\"](?P<folder>.*)['\"] is empty at the server, where (?P<count>\d+) messages stood",
            marked("the folder %(folder)s is empty at the server, where %(count)s messages stood"),
        ),
        (
            (
                r"(?P<gone>\d+) of (?P<count>\d+) messages are gone from the folder "
                r"['\"](?P<folder>.*)['\"] at the server( within an hour)?"
            ),
            marked("%(gone)s of %(count)s messages are gone from the folder %(folder)s at the server"),
        ),
        (
            (
                r"(?P<gone>\d+) of (?P<count>\d+) messages are gone from the folders of the mailbox at the server, "
                r"(?P<of_it>\d+) of them from the folder ['\"](?P<folder>.*)['\"]"
            ),
            marked(
                "%(gone)s of %(count)s messages are gone from the folders of the mailbox at the server, %(of_it)s of "
                "them from the folder %(folder)s"
            ),
        ),
        (
            r"their copies are kept\. If they were deleted on purpose, approve it",
            marked("their copies are kept. If they were deleted on purpose, approve it"),
        ),
        (r"if not, restore them at the server", marked("if not, restore them at the server")),
        # Refused at signing in elsewhere.
        (
            r"nobody here has this name; an admin adds them with `mailgate user add`",
            marked("nobody here has this name (an admin adds them with `mailgate user add`)"),
        ),
        (r"this answer belongs to .*", marked("this answer belongs to another attempt")),
        (r"it took too long; begin again", marked("it took too long: begin again")),
        (r"the provider answered (?P<said>.*)", marked("the provider answered %(said)s")),
        (
            r"the provider did not verify the address \(email_verified\)",
            marked("the provider did not verify the address (email_verified)"),
        ),
        (
            r"no (?P<claim>\S+) of this person gives a role here \(oidc\.admins, oidc\.compliance\)",
            marked("no %(claim)s of this person gives a role here (oidc.admins, oidc.compliance)"),
        ),
        (r"this user is disabled", marked("this user is disabled")),
    )
)


def said(language: Language, text: str) -> str:
    """The text in the reader's language, as far as it is known."""
    return "; ".join(part for part, _ in _parts(language, text))


def detail(language: Language, text: str) -> Markup:
    """The same for a page: what stays English says so."""
    return Markup("; ").join(
        escape(part) if known else Markup('<span lang="en">{}</span>').format(part)
        for part, known in _parts(language, text)
    )


def _parts(language: Language, text: str) -> list[tuple[str, bool]]:
    """What is said, part by part, each with whether it is in the reader's language."""
    if language.code == ENGLISH:
        return [(text, True)]
    whole = _known(language, text)
    if whole is not None:
        return [(whole, True)]
    parts = text.split("; ")
    return [(text, False)] if len(parts) == 1 else [pair for part in parts for pair in _parts(language, part)]


def _known(language: Language, text: str) -> str | None:
    for pattern, known in _KNOWN:
        found = pattern.fullmatch(text)
        if found is not None:
            values = {name: value or "" for name, value in found.groupdict().items()}
            if "what" in values:
                values["what"] = said(language, values["what"])
            for name in ("when", "then"):
                if name in values:
                    values[name] = _moment(language, values[name])
            return language.text(known) % values
    return None


def _moment(language: Language, text: str) -> str:
    try:
        return language.moment(from_rfc3339(text))
    except (ValueError, OverflowError):
        return text
