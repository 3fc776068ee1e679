"""Words around the system page: parts with what to do about them, what the figures are called, what processes do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mailgate.admin.languages import Language, marked


@dataclass(frozen=True, slots=True)
class Part:
    """A part that /readyz looks at: what it is called, what it does, what to do when it does not work."""

    name: str
    about: str
    remedy: str


PARTS: Final[Mapping[str, Part]] = {
    "database": Part(
        marked("Database"),
        marked("it answers"),
        marked("Start it, or mend the connection (database.url). Nothing works until it answers."),
    ),
    "blobs": Part(
        marked("Blob store"),
        marked("bytes can be written and read"),
        marked("Look at its space, permissions and credentials (blobs.url). New mail waits at its server until then."),
    ),
    "scheduler": Part(
        marked("Background work"),
        marked("every worker's last turn succeeded"),
        marked("The gateway's log says why it failed. It is tried again by itself."),
    ),
    "log": Part(
        marked("Purge log"),
        marked("entries can be written"),
        marked("Free disk space, or mend permissions. Nothing is purged until entries can be written."),
    ),
    "plans": Part(
        marked("Plans"),
        marked("the catalogue is right"),
        marked("Mend the file (plans.file); it is read again by itself."),
    ),
    "witness": Part(
        marked("Witness"),
        marked("signed checkpoints are kept outside the database"),
        marked("Mount or make its directory (ledger.witness). No log is signed until then."),
    ),
    "events": Part(
        marked("Event feed"),
        marked("events get their place at once"),
        marked("A process must publish them: look at the gateway's log. Nothing is lost, programs hear of it late."),
    ),
    "imports": Part(
        marked("Large imports"),
        marked("a process beside prepares them"),
        marked("Nothing is lost, they are slower. The gateway's log says why; starting the gateway again mends it."),
    ),
    "alarms": Part(
        marked("Alarms"),
        marked("none stands"),
        marked("They stand on this page, each with what to do."),
    ),
}

QUEUES: Final[Mapping[str, tuple[str, str]]] = {
    "passes": (marked("Passes"), marked("over mailboxes, by request")),
    "pushes": (marked("Changes"), marked("on their way to mail servers")),
    "letters": (marked("Letters"), marked("to be sent, some of them later")),
    "deliveries": (marked("Deliveries"), marked("to webhooks")),
    "erasures": (marked("Erasures"), marked("bytes whose keys are destroyed")),
    "events": (marked("Events"), marked("without a place in the feed")),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line over time. `key`: of the samples; `grows`: what is shown is how much it grew in a minute; `how`: how a
    value is written.
    """

    key: str
    name: str
    how: Callable[[Language, float], str]
    grows: bool = False


def _number(words: Language, value: float) -> str:
    return words.number(round(value, 1) if value < 10 else round(value))


def _seconds(words: Language, value: float) -> str:
    return words.lasting(value)


def _bytes(words: Language, value: float) -> str:
    return words.size(round(value))


FIGURES: Final[tuple[Figure, ...]] = (
    Figure("lag_s", marked("Lag of most mailboxes"), _seconds),
    Figure("trouble", marked("Mailboxes in trouble"), _number),
    Figure("position", marked("Events a minute"), _number, grows=True),
    Figure("pushes", marked("Changes that wait"), _number),
    Figure("letters", marked("Letters that wait"), _number),
    Figure("deliveries", marked("Deliveries that wait"), _number),
    Figure("erasures", marked("Erasures that wait"), _number),
    Figure("size", marked("Mail that is kept"), _bytes),
    Figure("load", marked("Processors in use"), _number),
    Figure("memory", marked("Memory of all processes"), _bytes),
)

LEASES: Final[Mapping[str, str]] = {
    "publisher": marked("puts events in order"),
    "sender": marked("sends letters"),
    "webhooks": marked("delivers to webhooks"),
    "purge": marked("purges"),
    "signer": marked("signs a log"),
    "key_rotation": marked("rotates keys"),
    "indexer": marked("indexes new mail"),
    "erase": marked("erases bytes"),
    "tenant_erasure": marked("erases tenants that leave"),
}
"""What a lease is for, by the first part of its name."""

HOURS: Final = (6, 24, 72)
"""How far back plots may go."""
