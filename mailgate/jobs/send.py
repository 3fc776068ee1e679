"""Sending what is due: one task for each submission that was claimed, bounded in all and for each server.

    claim → connect → MAIL, RCPT → journal → DATA, content → what became of it

Every step may be cut: before the journal nothing was promised, and behind it the queue knows that nobody knows
(`mailgate.store.sending.queue`). Nothing here waits with a transaction open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import structlog

from connectors.errors import AddressRefusedError, AuthError, ConnectorError, ThrottledError, TlsError
from connectors.imap.quirks import files_sent_itself_s
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.smtp.errors import CannotCarryError, RefusedError, UnknownOutcomeError
from connectors.smtp.model import Envelope, Reply
from connectors.smtp.port import Submitter
from mailgate.blobs import BlobStore
from mailgate.clock import SECOND, Clock, Instant
from mailgate.consents.model import Consented, auth_of
from mailgate.errors import MailgateError, NotFoundError
from mailgate.metrics import Metrics
from mailgate.store.sending.queue import Claim, ClaimLostError, SendQueue
from mailgate.submissions.decide import Answer, Outcome
from mailgate.submissions.model import SubmissionState, waiting

_log = structlog.get_logger("mailgate.send")

LEASE: Final[Instant] = 60 * SECOND
_ROUNDS: Final = 20
"""How often in one piece of work the queue is asked for more."""

_WORDS: Final[dict[type[Exception], str]] = {
    AddressRefusedError: "address_refused",
    TlsError: "tls",
    ThrottledError: "throttled",
}

ConnectSmtp: TypeAlias = Callable[[str, Endpoint, PasswordAuth | Consented], Awaitable[Submitter]]
"""For the mailbox with this id."""
SecretsOf: TypeAlias = Callable[[str], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class SendLimits:
    """Connections at once, in all and to one server; how long a transfer may go on when the process is told to stop."""

    at_once: int = 8
    per_host: int = 4
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of trying: the outcome, the server's last words, how long it may file the message itself."""

    outcome: Outcome
    response: str | None = None
    wait: Instant = 0


class Sender:
    """The sending of one process. `work` begins what is due and does not wait for its end; `wake` is called then."""

    def __init__(
        self,
        queue: SendQueue,
        blobs: BlobStore,
        connect: ConnectSmtp,
        secrets: SecretsOf,
        clock: Clock,
        owner: str,
        metrics: Metrics,
        limits: SendLimits | None = None,
    ) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._queue = queue
        self._blobs = blobs
        self._connect = connect
        self._secrets = secrets
        self._clock = clock
        self._owner = owner
        self._metrics = metrics
        self._limits = limits or SendLimits()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()
        self._renew_at: Instant = 0

    async def work(self) -> None:
        """Renew the lease, settle what was left by others, and begin what is due."""
        now = self._clock()
        if now >= self._renew_at or now < self._renew_at - LEASE:
            await self._queue.enter(self._owner, LEASE, now)
            self._renew_at = now + LEASE // 3
        await self._queue.recover(now)
        await self._queue.resolve(now)
        await self._queue.file_due(now)
        for _ in range(_ROUNDS):
            room = self._limits.at_once - len(self._tasks)
            full = [host for host, count in self._hosts.items() if count >= self._limits.per_host]
            due = await self._queue.due(self._clock(), room, full) if room > 0 else []
            if not due:
                break
            for found in due:
                await self._begin(*found)

    async def idle(self) -> None:
        """Wait until everything that was begun has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> None:
        """End: what is being transferred gets a moment, the rest goes back into the queue."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._limits.grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._queue.leave(self._owner)

    async def _begin(self, id_: str, tenant_id: str, mailbox_id: str) -> None:
        claim = await self._queue.claim(self._owner, id_, tenant_id, mailbox_id, self._clock())
        if claim is None:
            return
        host = str(claim.smtp["host"])
        if self._hosts[host] >= self._limits.per_host:
            await self._queue.release(claim)
            return
        self._hosts[host] += 1
        task = asyncio.create_task(self._run(claim), name=f"send {claim.id}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            self.wake()

        task.add_done_callback(ended)

    async def _run(self, claim: Claim) -> None:
        try:
            await self._attempt(claim)
        except asyncio.CancelledError:
            await self._queue.release(claim)  # does nothing once DATA may have been sent
            raise
        except Exception:  # noqa: BLE001 - the boundary of background work: one submission must not end the others
            _log.exception("send_failed", submission=claim.id)
            self._metrics.count("submission_attempts_total", outcome="error")
            await self._queue.abandon(claim, self._clock())

    async def _attempt(self, claim: Claim) -> None:
        try:
            tried = await self._try(claim)
            now = self._clock()
            verdict = await self._queue.finish(claim, tried.outcome, tried.response, now, tried.wait)
        except (ClaimLostError, NotFoundError) as error:  # NotFoundError: the tenant is being erased
            _log.info("claim_lost", submission=claim.id, reason=error.detail)
            return
        outcome = "retry" if verdict.state is SubmissionState.QUEUED else verdict.state.value
        self._metrics.count("submission_attempts_total", outcome=outcome)
        _log.info("attempted", submission=claim.id, attempt=claim.attempts, outcome=outcome, code=verdict.code)

    async def _try(self, claim: Claim) -> _Attempt:
        try:
            session = await self._open(claim)
        except AuthError as error:
            return _failed({}, Answer("auth_failed", str(error), transient=True), login=True)
        except (ConnectorError, MailgateError) as error:
            return _failed({}, _answer(error, connecting=True), pause=_pause(error))
        try:
            return await self._hand_over(claim, session)
        except BaseException:
            session.drop()
            raise
        finally:
            await session.close()

    async def _open(self, claim: Claim) -> Submitter:
        secrets = (await self._secrets(claim.mailbox_id)).get("smtp")
        if secrets is None:
            raise AuthError("the mailbox has no credentials for sending")
        smtp = claim.smtp
        endpoint = Endpoint(smtp["host"], smtp["port"], Security(smtp["security"]))
        return await self._connect(claim.mailbox_id, endpoint, auth_of(smtp["username"], secrets))

    async def _hand_over(self, claim: Claim, session: Submitter) -> _Attempt:
        envelope = claim.envelope
        addresses = tuple(recipient.address for recipient in waiting(envelope.recipients))
        offer = Envelope(envelope.sender, addresses, claim.size, envelope.utf8, envelope.eight_bit)
        try:
            replies = dict(zip(addresses, await session.offer(offer), strict=True))
        except ConnectorError as error:
            return _failed({}, _answer(error))
        each = {address: None if reply.accepted else _said(reply) for address, reply in replies.items()}
        taken = [address for address, answer in each.items() if answer is None]
        if not taken:
            return _Attempt(Outcome(each), str(next(iter(replies.values()))))
        await self._queue.journal(claim, taken, self._clock())
        try:
            reply = await session.transfer(self._content(claim))
        except UnknownOutcomeError as error:
            session.drop()
            return _failed(each, Answer("no_answer", str(error)), unknown=True)
        except (ConnectorError, MailgateError) as error:
            session.drop()
            return _failed(each, _answer(error))
        return _Attempt(Outcome(each), str(reply), files_sent_itself_s(session.greeting) * SECOND)

    async def _content(self, claim: Claim) -> AsyncIterator[bytes]:
        chunks = self._blobs.read(claim.tenant_id, claim.blob_id, claim.blob_key, claim.size)
        async for chunk in chunks:
            yield chunk


def _failed(
    each: dict[str, Answer | None],
    whole: Answer,
    *,
    unknown: bool = False,
    login: bool = False,
    pause: Instant | None = None,
) -> _Attempt:
    return _Attempt(Outcome(each, whole, unknown, login, pause), whole.text)


def _said(reply: Reply) -> Answer:
    return Answer(reply.enhanced or str(reply.code), str(reply), reply.transient)


def _answer(error: Exception, *, connecting: bool = False) -> Answer:
    """What an error says. While connecting nothing is about the message: whatever it is, it is tried again."""
    if isinstance(error, RefusedError):
        said = _said(error.reply)
        return Answer(said.code, str(error), connecting or said.transient)
    if isinstance(error, CannotCarryError):
        return Answer(error.code, str(error))
    if isinstance(error, MailgateError):
        return Answer(error.slug, error.detail, transient=True)
    return Answer(_WORDS.get(type(error), "network"), str(error), transient=True)


def _pause(error: Exception) -> Instant | None:
    seconds = error.retry_after_s if isinstance(error, ConnectorError) else None
    return None if seconds is None else round(seconds * SECOND)
