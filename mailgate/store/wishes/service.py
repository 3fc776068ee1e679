"""Changes that the CRM asks for: the near side changes at once, the mail server follows (`mailgate.sync.operations`).

Each use case is one transaction, in which the near side, the operation and the events are written together. They are
shared out by what they are about: messages, folders, messages that are new, those that were purged, and whole
mailboxes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.blobs import BlobStore
from mailgate.keys import KeyRing
from mailgate.reading.suspects import Suspects
from mailgate.store.database import Database
from mailgate.store.wishes.append import Appends
from mailgate.store.wishes.backfill import Backfills
from mailgate.store.wishes.folders import FolderWishes
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.messages import MessageWishes
from mailgate.store.wishes.rehydrate import Rehydrations
from retention.model import AnchorFrom


@dataclass(frozen=True, slots=True)
class Wishes:
    """All of them."""

    messages: MessageWishes
    folders: FolderWishes
    appends: Appends
    rehydrations: Rehydrations
    backfills: Backfills

    @classmethod
    def over(
        cls,
        db: Database,
        ring: KeyRing,
        blobs: BlobStore,
        locks: Locks,
        *,
        max_bytes: int,
        anchor_from: AnchorFrom,
        at_once: int,
        uploads: int = 16,
        suspects: Suspects | None = None,
    ) -> Wishes:
        """Made of these parts. `max_bytes`: the largest message; `at_once`: how many are taken apart together;
        `uploads`: how many come in together; `suspects`: of this process.
        """
        return cls(
            MessageWishes(db, locks),
            FolderWishes(db, locks),
            Appends(
                db,
                ring,
                blobs,
                locks,
                max_bytes=max_bytes,
                anchor_from=anchor_from,
                at_once=at_once,
                uploads=uploads,
                suspects=suspects,
            ),
            Rehydrations(db, ring, locks),
            Backfills(db, locks),
        )
