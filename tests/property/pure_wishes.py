"""The gateway as plain values: what happens here, and what the CRM's users ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.model import SpecialUse
from mailgate.clock import DAY, Instant
from mailgate.sync.operations import Operation, OperationKind, OperationState
from tests.property.pure_rows import Copy, PureRows, Wish


class PureWishes(PureRows):
    """The near side changes at once."""

    # What happens to it.

    def set_plan(self, days: int) -> None:
        self.days = days

    def switch(self, *, on: bool) -> None:
        self.enabled = on

    def _may_sync(self) -> bool:
        return self.enabled and self.days > 0

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False

    def pin(self, id_: str) -> bool:
        copy = self.messages.get(id_)
        if copy is None or (self._due(copy) and not copy.pins):
            return False
        copy.pins = 1
        return True

    def purge(self) -> None:
        for copy in list(self.messages.values()):
            if self._due(copy) and not copy.pins and not self.held:
                self._bury(copy)

    def _due(self, copy: Copy) -> bool:
        return bool(copy.received_at + self.days * DAY <= self.clock.now)

    # What the CRM's users ask for.

    def _ask(self, kind: OperationKind, message_id: str | None = None, **about: Any) -> None:
        detail = about.pop("detail", {})
        where = {"folder_id": None, "from_folder_id": None, **about}
        id_ = self._new("o")
        operation = Operation(
            id_, "mailbox", len(self.wishes), kind, OperationState.PENDING, message_id, detail=detail, **where
        )
        self.wishes.append(Wish(operation))

    def _served(self, id_: str) -> Copy | None:
        copy = self.messages.get(id_)
        if copy is None or copy.deleted_at is not None or (self._due(copy) and not copy.pins and not self.held):
            return None
        return copy

    def crm_flags(self, id_: str, add: Sequence[str], remove: Sequence[str]) -> bool:
        copy = self._served(id_)
        if copy is None or not self._may_sync():
            return False
        wanted = sorted((set(copy.flags) - set(remove)) | set(add))
        if wanted != copy.flags and self._near_folder(copy) is not None:
            detail = {"add": sorted(set(wanted) - set(copy.flags)), "remove": sorted(set(copy.flags) - set(wanted))}
            self._ask(OperationKind.FLAGS, id_, detail=detail)
        copy.flags = wanted
        return True

    def crm_move(self, id_: str, folder_id: str) -> bool:
        copy = self._served(id_)
        at = None if copy is None else self._near_folder(copy)
        if copy is None or at is None or not self._may_sync():
            return False
        if at != folder_id:
            self._ask(OperationKind.MOVE, id_, folder_id=folder_id, from_folder_id=at)
            copy.moving_to = folder_id
        return True

    def crm_delete(self, id_: str, *, permanent: bool) -> bool:
        copy = self._served(id_)
        if copy is None or copy.pins:
            return False
        at = self._near_folder(copy)
        if not self._may_sync() or at is None:
            for wish in self._open_of(id_):
                self._finish(wish, "deleted")
            if id_ not in self.messages:
                return True  # it was not brought to the server yet, and ended with its operation
            if self.held:
                copy.deleted_at = self.clock.now
            else:
                self._bury(copy)
            return True
        trash = next(
            (f for f in self.folders.values() if f.special_use is SpecialUse.TRASH and f.gone_at is None), None
        )
        if not permanent and (trash is None or trash.id != at):
            if trash is None:
                trash = self._shelve("Trash", SpecialUse.TRASH, on_its_way="create")
                detail = {"name": "Trash", "special_use": "trash"}
                self._ask(OperationKind.FOLDER_CREATE, folder_id=trash.id, detail=detail)
            return self.crm_move(id_, trash.id)
        copy.deleted_at = self.clock.now
        self._ask(OperationKind.DELETE, id_, from_folder_id=at)
        return True

    def crm_append(self, folder_id: str, raw: bytes, received_at: Instant, flags: Sequence[str]) -> bool:
        if not self._may_sync():
            return False
        copy = self._keep(raw, received_at, flags)
        copy.moving_to = folder_id
        detail = {"flags": sorted(flags), "received_at": received_at}
        self._ask(OperationKind.APPEND, copy.id, folder_id=folder_id, detail=detail)
        return True

    def crm_create_folder(self, name: str) -> bool:
        if not self._may_sync() or self._taken(name):
            return False
        shelf = self._shelve(name, None, on_its_way="create")
        self._ask(OperationKind.FOLDER_CREATE, folder_id=shelf.id, detail={"name": name, "special_use": None})
        return True

    def crm_rename_folder(self, folder_id: str, name: str) -> bool:
        shelf = self.folders[folder_id]
        if not self._may_sync() or self._taken(name) or shelf.special_use is not None:
            return False
        self._ask(
            OperationKind.FOLDER_RENAME,
            folder_id=folder_id,
            detail={"name": name, "from": shelf.wanted_name or shelf.name},
        )
        shelf.wanted_name = name
        return True

    def crm_delete_folder(self, folder_id: str, *, permanent: bool) -> bool:
        shelf = self.folders[folder_id]
        if not self._may_sync() or shelf.special_use is not None:
            return False
        inside = [c for c in self.messages.values() if c.deleted_at is None and self._near_folder(c) == folder_id]
        here = {stand.message_id for stand in self.origins.values() if stand.folder_id == folder_id}
        rest = max(0, shelf.exists - sum(copy.id in here for copy in inside))
        if (inside or rest) and (not permanent or any(copy.pins for copy in inside)):
            return False
        for copy in inside:
            copy.deleted_at = self.clock.now
            self._ask(OperationKind.DELETE, copy.id, from_folder_id=folder_id)
        shelf.on_its_way = "delete"
        detail = {"name": shelf.wanted_name or shelf.name, "exists": rest}
        self._ask(OperationKind.FOLDER_DELETE, folder_id=folder_id, detail=detail)
        return True

    def _taken(self, name: str) -> bool:
        return any(name in (f.name, f.wanted_name) for f in self.folders.values() if f.gone_at is None)
