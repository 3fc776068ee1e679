"""Changes that the CRM asks for and that the server must make, as frozen values. Pure.

An operation is written in the transaction that changes the near side, so the CRM sees its change at once; then it is
brought to the server, in the order of `seq` within the mailbox.

    pending → sent → applied        the journal is written before the command (`sent`), the answer after it
           ↘       ↘ failed         the server refused, or the reason went away: the near side is rolled back

`sent` means: the command may have reached the server. After a cut or a kill nobody knows, so what became of it is
looked up at the server and never guessed; a command is repeated only when the server shows that it was not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from mailgate.clock import DAY, Instant

LONGEST_PAUSE: Final[Instant] = DAY
"""Between two attempts to bring one: no setting and no server makes it longer."""


class OperationKind(StrEnum):
    """What is asked for; beside it what `detail` holds.

    flags          {"add": [flag], "remove": [flag]}, sorted, disjoint
    labels         {"add": [label], "remove": [label]}
    move           {}; from `from_folder_id` to `folder_id`
    delete         {}; for ever (a delete into Trash is a move)
    append         {"flags": [flag], "received_at": instant or null}; the message is the copy, into `folder_id`
    folder_create  {"name": name, "special_use": use or null}
    folder_rename  {"name": new name, "from": name at the server}
    folder_delete  {"name": name at the server, "exists": messages that the user saw in it}
    rehydrate      {"pins": [{"entity_type", "entity_id", "note": sealed, in base 64, or null}]}; the message was purged
    """

    FLAGS = "flags"
    LABELS = "labels"
    MOVE = "move"
    DELETE = "delete"
    APPEND = "append"
    FOLDER_CREATE = "folder_create"
    FOLDER_RENAME = "folder_rename"
    FOLDER_DELETE = "folder_delete"
    REHYDRATE = "rehydrate"


class OperationState(StrEnum):
    """Where an operation is; clients see `sent` as pending."""

    PENDING = "pending"
    SENT = "sent"
    APPLIED = "applied"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Operation:
    """One change. `journal`: what was written down before its command was sent, None before."""

    id: str
    mailbox_id: str
    seq: int
    kind: OperationKind
    state: OperationState
    message_id: str | None
    folder_id: str | None
    from_folder_id: str | None
    detail: Mapping[str, Any]
    journal: Mapping[str, Any] | None = None
    attempts: int = 0
    next_at: Instant | None = None
