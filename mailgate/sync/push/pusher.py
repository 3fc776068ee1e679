"""Bringing operations to the server: in order, by neighbours that are alike, each step journalled before it is sent.

    open operations → plan (pure) → groups → carry out (`steps`): own, journal, command, confirm
                                  ↘ sent and not answered: look at the server first (`lookup`)

A message has one operation under way at a time. Operations of different messages do not depend on each other, so those
with the same step are done by one command; one about a folder waits for all before it, and all behind it wait for it.
One about a folder also waits for those that are to take or to leave its name first.

A line that drops leaves operations `sent`; the next session looks them up before anything else (`resolve`). A server
that asks for a pause gets one. A refusal fails the operation; of several together, those that were not done are tried
one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from connectors.errors import FolderGoneError, NetworkError, Retry, ServerError, ThrottledError
from mailgate.blobs.errors import BlobCorruptError, BlobMissingError, BlobStoreError
from mailgate.clock import SECOND, Instant
from mailgate.errors import MailgateError
from mailgate.sync.context import Context
from mailgate.sync.folder_list import refresh
from mailgate.sync.operations import Operation, OperationKind, OperationState
from mailgate.sync.push.groups import Group, Mutation, alike, folders_of, goes_on, names_of, put, sent
from mailgate.sync.push.lookup import Question, Search
from mailgate.sync.push.model import (
    Applied,
    CopyThenExpunge,
    Evidence,
    Failed,
    LookUp,
    Original,
    Step,
    Store,
    StoreLabels,
    Wait,
)
from mailgate.sync.push.plan import LOOKED_FOR, RENAMED, RENUMBERED, plan
from mailgate.sync.push.port import Asked, Delay, PushStore, Put
from mailgate.sync.push.steps import Steps

log = structlog.get_logger()

AT_ONCE: Final = 500
"""So many operations are looked at together."""
MOST_WAITING: Final = 4 * AT_ONCE
"""So many of those that wait are looked over, for what may come before them."""
EFFORTS: Final = 8
"""Steps that one operation may take in one turn."""
LONGEST_PAUSE_S: Final = 6 * 3600.0
"""The longest pause that a server is granted."""

_FOLDER_GONE: Final = frozenset({"TRYCREATE", "NONEXISTENT"})
_FOR_ALL: Final = _FOLDER_GONE | {"READ-ONLY", "NOPERM", "OVERQUOTA"}
"""Refusals that have nothing to do with single messages."""

_LOOKS: Final = frozenset({LOOKED_FOR, RENAMED, RENUMBERED})
"""What the passes find out."""

_OF_FOLDERS: Final = frozenset({OperationKind.FOLDER_CREATE, OperationKind.FOLDER_RENAME, OperationKind.FOLDER_DELETE})


@dataclass(slots=True)
class Turn:
    """What one turn did. `finished`: operations; `touched`: ids of folders that changed at the server; `looks`: some
    wait until the passes have said where their messages are; `next_at`: when the next pause is over.
    """

    finished: int = 0
    touched: set[str] = field(default_factory=set)
    looks: bool = False
    more: bool = False
    next_at: Instant | None = None

    def wake(self, instants: Iterable[Instant | None]) -> None:
        """Something waits until these."""
        known = [at for at in (self.next_at, *instants) if at is not None]
        self.next_at = min(known, default=None)


class Pusher:
    """Brings the operations of one connected mailbox."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pushes: PushStore = context.store.pushes
        self._search = Search(context)
        self._steps = Steps(context, self._pushes, self._search)
        self._said: dict[str, str] = {}  # what operations wait for, as it was last written
        self._left: set[str] = set()  # not to be looked at again in this turn
        self._alone: set[str] = set()  # refused together with others
        self._listed: set[str] = set()  # refused since a folder is gone, which the list of folders may explain
        self._given_up: dict[str, Failed] = {}  # to fail, unless a look shows that they were done
        self._answered: set[str] = set()  # sent on this line, and the server said what it made of it
        self._paused = False
        self._turn = Turn()

    async def resolve(self) -> None:
        """Before anything else in a session: what became of the commands that were not answered."""
        self._begin()
        found = await self._pushes.open(self._context.owner, 2 * AT_ONCE, sent=True)
        if found:
            await self._refresh_entitlement()
            await self._round(found, resolving=True)
            self._context.lease.answered()

    async def turn(self, limit: int = AT_ONCE) -> Turn:
        """Bring what waits, until nothing more can be done now, or so many operations ended.

        Raises the connector's errors when the line drops: what was sent then is resolved by the next session, and the
        lease goes on covering it.
        """
        turn = await self._rounds(limit)
        self._context.lease.answered()
        return turn

    async def _rounds(self, limit: int) -> Turn:
        self._begin()
        turn = self._turn
        efforts: Counter[str] = Counter()
        while True:
            # What has to wait must not hold up what comes behind it.
            found = await self._pushes.open(self._context.owner, AT_ONCE + min(len(self._left), MOST_WAITING))
            if not found:
                self._answered.clear()
                return turn
            if not efforts:
                await self._refresh_entitlement()
            ready = self._ready(found)
            if turn.finished >= limit or not ready or self._paused:
                turn.more = bool(ready) and not self._paused
                return turn
            efforts.update(asked.operation.id for asked in ready)
            await self._round(ready)
            self._left.update(id_ for id_, count in efforts.items() if count >= EFFORTS)
            self._context.getting_on()

    def _begin(self) -> None:
        self._turn = Turn()
        self._paused = False
        self._said = {id_: said for id_, said in self._said.items() if id_ in self._left}
        self._left.clear()
        self._given_up.clear()
        self._listed.clear()

    async def _refresh_entitlement(self) -> None:
        context = self._context
        context.entitled = await context.store.entitled(context.config.tenant_id, context.clock())

    def _ready(self, found: Sequence[Asked]) -> list[Asked]:
        """Those that nothing before them holds up."""
        ready: list[Asked] = []
        messages: set[str] = set()
        waiting: set[str] = set()  # folders about which something has to wait
        in_use: set[str] = set()  # folders of messages that have to wait
        names: set[str] = set()  # names that folders are to take, or to leave, before others may
        for asked in found:
            operation, folders = asked.operation, folders_of(asked)
            waits = operation.id in self._left or bool(folders & waiting)
            if operation.kind in _OF_FOLDERS:
                if ready:
                    return ready
                if not waits and not folders & in_use and names.isdisjoint(names_of(operation)):
                    return [asked]
                waiting |= folders
                names |= names_of(operation)
                continue
            waits |= operation.message_id in messages
            messages.add(operation.message_id or "")
            if waits:
                in_use |= folders
            else:
                ready.append(asked)
        return ready

    # One round: plan, look up, carry out.

    async def _round(self, ready: Sequence[Asked], *, resolving: bool = False) -> None:
        planned = [(asked, self._plan(asked)) for asked in ready]
        questions: list[Question] = [(asked, step) for asked, step in planned if isinstance(step, LookUp)]
        todo = await self._settle([item for item in planned if not isinstance(item[1], LookUp)])
        if questions:
            todo += await self._answer(questions)
        if resolving:
            await self._again([asked for asked, step in todo if not goes_on(asked, step)])
            return  # the second halves of moves are done in the first turn
        for group in self._groups(todo):
            await self._carry_out(group)

    def _plan(self, asked: Asked, evidence: Evidence | None = None) -> Step:
        context = self._context
        return plan(
            asked.operation,
            asked.facts,
            context.source.abilities,
            context.clock(),
            entitled=context.entitled.sync,
            evidence=evidence,
        )

    async def _answer(self, questions: Sequence[Question]) -> list[tuple[Asked, Mutation]]:
        """Look at the server, then plan with what it showed. What was not done is done in the next round."""
        evidence = await self._search.evidence(questions)
        # What the server did not take, as it said itself, is nowhere else.
        evidence |= {id_: replace(evidence[id_], looked=True) for id_ in self._given_up.keys() & evidence.keys()}
        evidence |= {id_: replace(evidence[id_], unanswered=True) for id_ in evidence.keys() - self._answered}
        planned = [(asked, self._plan(asked, evidence[asked.operation.id])) for asked, _ in questions]
        todo = await self._settle(planned)
        halves = [(a, step) for a, step in todo if isinstance(step, CopyThenExpunge) and step.copied is not None]
        await self._found_copies(halves)
        rest = [(a, step) for a, step in todo if not isinstance(step, CopyThenExpunge) or step.copied is None]
        await self._again([asked for asked, _ in rest if asked.operation.state is OperationState.SENT])
        return [item for item in rest if item[0].operation.state is not OperationState.SENT]

    async def _settle(self, planned: Sequence[tuple[Asked, Step]]) -> list[tuple[Asked, Mutation]]:
        """Write down what needs no command; the rest."""
        todo: list[tuple[Asked, Mutation]] = []
        applied: list[tuple[Asked, Applied]] = []
        failed: list[tuple[Operation, Failed]] = []
        waits: list[tuple[Operation, str, Instant | None]] = []
        for asked, step in planned:
            match step:
                case Applied():
                    applied.append((asked, step))
                case Failed():
                    failed.append((asked.operation, step))
                case Wait():
                    waits.append((asked.operation, step.reason, step.until))
                case LookUp():
                    raise TypeError("what was looked up needs no other look")
                case _:
                    todo.append((asked, step))
        await self._write_applied(applied)
        await self._fail(failed)
        await self._wait(waits)
        return todo

    async def _write_applied(self, applied: Sequence[tuple[Asked, Applied]]) -> None:
        """Both sides agree; where that was found out at the server, the addresses follow."""
        agreed: list[Operation] = []
        expunged: list[tuple[Asked, Original | None]] = []
        found: dict[str, list[Put]] = {}
        for asked, step in applied:
            operation, facts = asked.operation, asked.facts
            if operation.kind in _OF_FOLDERS:
                if operation.state is OperationState.SENT:
                    await self._steps.resubscribe(operation, facts.place)
                await self._steps.folder_applied(operation)
            elif operation.kind is OperationKind.REHYDRATE:
                await self._pushes.brought_back(self._context.owner, operation, None, self._context.clock())
            elif operation.kind is OperationKind.DELETE and facts.copy is not None:
                expunged.append((asked, None))
            elif step.at is not None and facts.place is not None:
                to = facts.place.folder
                found.setdefault(to.id, []).append(put(asked, sent(asked), to, step.at))
            else:
                agreed.append(operation)
        if expunged:
            await self._steps.expunged(expunged)
        for puts in found.values():
            await self._steps.put(puts)
        if agreed:
            await self._pushes.applied(self._context.owner, agreed, self._context.clock())
        self._turn.finished += len(applied)

    async def _found_copies(self, halves: Sequence[tuple[Asked, CopyThenExpunge]]) -> None:
        """The first half of these moves was done: the second is in the next round."""
        by_folder: dict[str, list[Put]] = {}
        for asked, step in halves:
            if step.copied is not None:
                item = put(asked, step.original, step.to, step.copied)
                by_folder.setdefault(step.to.id, []).append(item)
        for puts in by_folder.values():
            await self._pushes.copied(self._context.owner, puts, self._context.clock())
        # Where the folder was renumbered, its pass comes between.
        await self._wait(
            [
                (asked.operation, RENUMBERED, None)
                for asked, step in halves
                if step.copied is not None and step.to.uidvalidity not in (None, step.copied.uidvalidity)
            ]
        )

    # Commands, and their refusals.

    def _groups(self, todo: Sequence[tuple[Asked, Mutation]]) -> list[Group]:
        """Neighbours and others whose steps are alike, in the order of the first of each."""
        groups: dict[Hashable, Group] = {}
        for asked, step in todo:
            key = asked.operation.id if asked.operation.id in self._alone else alike(asked, step)
            groups.setdefault(key, Group([])).items.append((asked, step))
        return list(groups.values())

    async def _carry_out(self, group: Group) -> None:
        try:
            outcome = await self._steps.carry_out(group)
        except ThrottledError as error:
            await self._put_off(group, error)
        except ServerError as error:
            meant = error.retry is Retry.NEVER or isinstance(error, FolderGoneError)
            await (self._refused if meant else self._put_off)(group, error)
        except ValueError as error:  # what can't be said to any server
            await self._fail([(operation, Failed("refused", str(error))) for operation in group.operations])
        except (BlobStoreError, BlobMissingError, BlobCorruptError) as error:
            await self._unreadable(group, error)
        else:
            self._turn.touched |= outcome.touched
            self._turn.finished += len(group.items) - len(outcome.failed)
            await self._fail(outcome.failed)
            await self._wait([(operation, reason, None) for operation, reason in outcome.waits])
        self._answered.update(operation.id for operation in group.operations)

    async def _put_off(self, group: Group, error: ThrottledError | ServerError) -> None:
        """Not now: these are tried again after a pause. If the server asked for it, nothing more is sent before."""
        settings = self._context.settings
        now = self._context.clock()
        tired = [item for item in group.operations if item.attempts + 1 >= settings.push_attempts]
        code = (error.code or "refused")[:64] if isinstance(error, ServerError) else "server_busy"
        await self._give_up(group, tired, Failed(code, str(error)))
        delays: list[Delay] = []
        for operation in group.operations:
            if operation not in tired:
                grown_s = min(settings.backoff_max_s, settings.backoff_min_s * 2 ** min(operation.attempts, 30))
                grown_s = 0.0 if error.retry is Retry.NOW else grown_s
                pause_s = max(grown_s, min(error.retry_after_s or 0.0, LONGEST_PAUSE_S))
                delays.append(Delay(operation, str(error), now + round(pause_s * SECOND), operation.attempts + 1))
        if delays:
            await self._delay(delays)
            self._paused = isinstance(error, ThrottledError)

    async def _refused(self, group: Group, error: ServerError) -> None:
        """NO or BAD. Of several messages some may be done: those are found by looking, the others tried alone."""
        gone = error.code in _FOLDER_GONE or isinstance(error, FolderGoneError)
        if gone and await self._listed_anew(group):
            return
        failure = Failed("folder_gone" if gone else (error.code or "refused")[:64], str(error))
        log.warning("operations_refused", mailbox_id=self._context.config.id, count=len(group.items), error=str(error))
        if not group.sent or len(group.items) == 1:
            await self._steps.undo_copies(group)
            await self._fail([(operation, failure) for operation in group.operations])
        elif gone or error.code in _FOR_ALL:
            await self._give_up(group, group.operations, failure)
        else:
            self._alone.update(operation.id for operation in group.operations)

    async def _listed_anew(self, group: Group) -> bool:
        """A folder that is gone may be called otherwise now: once a turn the list is read, and these planned anew."""
        if not self._listed.isdisjoint(operation.id for operation in group.operations):
            return False
        self._listed.update(operation.id for operation in group.operations)
        await refresh(self._context)
        if group.sent and len(group.items) > 1:
            self._alone.update(operation.id for operation in group.operations)
        else:
            await self._again([asked for asked, _ in group.items])
        return True

    async def _give_up(self, group: Group, operations: Sequence[Operation], failure: Failed) -> None:
        """These fail, but for what the server did of them after all."""
        if not operations:
            return
        if group.sent and not isinstance(group.items[0][1], Store | StoreLabels):
            self._given_up.update((operation.id, failure) for operation in operations)
        else:
            await self._fail([(operation, failure) for operation in operations])

    async def _unreadable(self, group: Group, error: MailgateError) -> None:
        """The copy's bytes can't be read to be appended: the line is no more, for the message was not sent whole."""
        operation = group.operations[0]
        attempts = operation.attempts + 1
        if attempts >= self._context.settings.push_attempts:
            await self._fail([(operation, Failed("unreadable", str(error)))])
        else:
            settings = self._context.settings
            pause_s = min(settings.backoff_max_s, settings.backoff_min_s * 2 ** min(operation.attempts, 30))
            until = self._context.clock() + round(pause_s * SECOND)
            await self._delay([Delay(operation, str(error), until, attempts)])
        raise NetworkError("the line was dropped in the middle of a message that could not be read") from error

    # What is written without a command.

    async def _again(self, found: Sequence[Asked]) -> None:
        """They were not done: they are pending again, or given up."""
        pending: list[Operation] = []
        failed: list[tuple[Operation, Failed]] = []
        for asked in found:
            failure = self._given_up.get(asked.operation.id)
            if failure is None:
                pending.append(asked.operation)
            else:
                failed.append((asked.operation, failure))
        if pending:
            await self._pushes.again(self._context.owner, pending, self._context.clock())
        await self._fail(failed)

    async def _fail(self, failed: Sequence[tuple[Operation, Failed]]) -> None:
        if failed:
            await self._pushes.fail(self._context.owner, failed, self._context.clock())
            self._turn.finished += len(failed)

    async def _wait(self, waits: Sequence[tuple[Operation, str, Instant | None]]) -> None:
        """They are left for this turn, and say why."""
        self._left.update(operation.id for operation, _, _ in waits)
        turn = self._turn
        turn.looks |= any(reason in _LOOKS for _, reason, _ in waits)
        turn.wake(until for _, _, until in waits)
        new = [
            Delay(operation, reason, None, operation.attempts)
            for operation, reason, until in waits
            if until is None and self._said.get(operation.id) != reason
        ]
        if new:
            await self._delay(new)

    async def _delay(self, delays: Sequence[Delay]) -> None:
        await self._pushes.delay(self._context.owner, delays, self._context.clock())
        self._said.update((delay.operation.id, delay.reason) for delay in delays)
        self._left.update(delay.operation.id for delay in delays)
        self._turn.wake(delay.until for delay in delays)
