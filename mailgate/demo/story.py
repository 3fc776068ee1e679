"""The main job from start to end, told on the screen, with every claim checked against something independent.

What the gateway says is compared with what it can't influence: the generated mail and the rules (`cast.expected`), the
mail server's own answers, the wire tap, and the stand-alone verifier. One difference and the demonstration fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailgate.demo.auditor import Auditor
from mailgate.demo.cast import IMPORT_DAYS, Expected, Tenant, expected, mail_of
from mailgate.demo.crm import ApiError, Crm, Json
from mailgate.demo.mailserver import MailServer, Originals
from mailgate.demo.screen import Bars, Screen
from mailgate.demo.tap import Tap

_IMPORT_LIMIT_S = 120.0
_RUN_LIMIT_S = 60.0
_LOOK_S = 0.1  # between two looks at a state
_PINS = (("deal", "D-1042"), ("task", "T-77"), ("deal", "D-2210"), ("task", "T-108"), ("quote", "Q-31"))
_TROUBLE = frozenset({"auth_failed", "disabled", "not_entitled", "needs_approval"})


class Mismatch(RuntimeError):  # noqa: N818 - it is a finding, not a failure of the program
    """Something is not as the rules demand."""


@dataclass(slots=True)
class Part:
    """One tenant's part: what is known and what was seen."""

    tenant: Tenant
    expected: Expected
    tap: Tap
    mailbox: str = ""
    before: Originals = field(default_factory=dict)
    messages: list[Json] = field(default_factory=list)
    pinned: dict[str, str] = field(default_factory=dict)
    """Message id → `deal D-1042`."""
    purged: int = 0
    """What all runs of the tenant say they purged."""
    commands_before_purge: int = 0


class Story:
    """Runs the acts in order. Raises Mismatch, ApiError or ChildError at the first thing that is not right."""

    def __init__(self, screen: Screen, crm: Crm, server: MailServer, folder: Path) -> None:
        self._screen, self._crm, self._server, self._folder = screen, crm, server, folder
        self.parts: list[Part] = []

    async def prepare(self, tenants: Sequence[Tenant], *, now: int) -> None:
        """Generates the mail and starts the mail server on it."""
        self._screen.act("A mail server with the mail of six companies")
        total = 0
        plans: list[tuple[Tenant, Expected]] = []
        for tenant in tenants:
            mails = mail_of(tenant, now=now)
            total += sum(len(mail.raw) for mail in mails)
            self._server.add(tenant.account, mails)
            plans.append((tenant, expected(tenant, mails, now=now)))
        await self._server.start()
        for tenant, wanted in plans:
            self.parts.append(Part(tenant, wanted, await Tap(self._server.port).start()))
        count = sum(part.expected.on_server for part in self.parts)
        self._screen.say(
            f"[bold]{self._server.title}[/] on 127.0.0.1:{self._server.port}: {count} messages, {total / 1e6:.1f} MB, "
            "fourteen languages, 0 to 120 days old"
        )
        for part in self.parts:
            part.before = await self._server.originals(part.tenant.account)
            found = sum(map(len, part.before.values()))
            _require(found == part.expected.on_server, f"the mail server has {found} of {part.expected.on_server}")
        self._screen.say("asked over IMAP and remembered: every UID, flag and SHA-256, to compare at the end")

    async def connect(self) -> None:
        """Tenants on professional, mailboxes connected, imports watched."""
        self._screen.act("The CRM connects their mailboxes, everyone on professional, and watches the import")
        for part in self.parts:
            await self._crm.put_tenant(part.tenant.id, part.tenant.name)
            await self._crm.set_plan(part.tenant.id, "professional")
        begun = time.monotonic()
        for part in self.parts:
            part.mailbox = await self._crm.connect(part.tenant.id, part.tenant.account, port=part.tap.port)
        labels = [(part.tenant.id, part.tenant.name) for part in self.parts]
        with self._screen.bars(labels) as bars:
            try:
                async with asyncio.TaskGroup() as tasks:
                    first = tasks.create_task(self._first_visible(begun))
                    for part in self.parts:
                        tasks.create_task(self._imported(part, bars))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        took = time.monotonic() - begun
        count = sum(part.expected.imported for part in self.parts)
        subject, after = first.result()
        self._screen.say(
            f"{count} messages in {took:.1f} s, newest first: [italic]{subject}[/] was there after {after:.2f} s"
        )
        older = sum(part.expected.on_server - part.expected.imported for part in self.parts)
        self._screen.say(
            f"{older} messages are older than {IMPORT_DAYS} days: outside the window, they stay on the server only"
        )
        await self._compare_imported()

    async def _first_visible(self, begun: float) -> tuple[str, float]:
        part = self.parts[-1]
        while True:
            message = await self._crm.first_message(part.tenant.id)
            if message is not None:
                return str(message.get("subject", "")).replace("[", "\\["), time.monotonic() - begun
            await asyncio.sleep(_LOOK_S)

    async def _imported(self, part: Part, bars: Bars) -> None:
        deadline = time.monotonic() + _IMPORT_LIMIT_S
        while True:
            mailbox = await self._crm.mailbox(part.tenant.id, part.mailbox)
            state, progress = mailbox["state"], mailbox["progress"] or {"done": 0, "total": 0}
            _require(state not in _TROUBLE, f"{part.tenant.name}: {state}, {mailbox.get('state_reason')}")
            done, total = int(progress["done"]), int(progress["total"])
            if state in ("live", "polling"):
                bars.update(part.tenant.id, done, max(done, total), state, finished=True)
                return
            rate = f"{progress['rate']:.0f}/s" if progress.get("rate") else state
            # The gateway learns folder by folder how much there is; here it is known before.
            bars.update(part.tenant.id, done, max(total, part.expected.imported), rate)
            reason = mailbox.get("state_reason") or "no reason given"
            _require(
                time.monotonic() < deadline,
                f"{part.tenant.name}: still {state} after {_IMPORT_LIMIT_S:.0f} s: {reason}",
            )
            await asyncio.sleep(_LOOK_S)

    async def _compare_imported(self) -> None:
        checked = 0
        for part in self.parts:
            part.messages = [message async for message in self._crm.messages(part.tenant.id)]
            have, want = len(part.messages), part.expected.imported
            _require(have == want, f"{part.tenant.name}: {have} copies, {want} messages lie inside the window")
            hashes = {digest for content in part.before.values() for _, digest in content.values()}
            # Every eighth is fetched whole and compared with what the server gave before.
            for message in part.messages[::8]:
                raw = await self._crm.raw(part.tenant.id, message["id"])
                same = hashlib.sha256(raw).hexdigest() in hashes
                _require(same, f"{part.tenant.name}: /raw of {message['id']} differs from the original")
                checked += 1
        self._screen.proved(f"all of them are there, and {checked} fetched whole are byte for byte the originals")

    async def pin(self) -> None:
        """Attaches some messages of every age to deals and tasks."""
        self._screen.act("People attach some of it to deals and tasks")
        for part in self.parts:
            step = max(1, len(part.messages) // 12)
            for number, message in enumerate(part.messages[step // 2 :: step]):
                kind, entity = _PINS[number % len(_PINS)]
                await self._crm.pin(part.tenant.id, message["id"], kind, entity)
                part.pinned[message["id"]] = f"{kind} {entity}"
        for part in (self.parts[0], self.parts[3]):
            oldest = next(message for message in reversed(part.messages) if message["id"] in part.pinned)
            subject = str(oldest["subject"]).replace("[", "\\[")
            self._screen.say(f"[dim]{part.tenant.name}:[/] [italic]{subject}[/] → {part.pinned[oldest['id']]}")
        self._screen.say(f"{sum(len(part.pinned) for part in self.parts)} messages pinned, over HTTP, like all of this")

    async def purge(self) -> None:
        """Each tenant gets its own plan; then the purge runs."""
        self._screen.act("Each company gets its own plan, and the purge runs")
        for part in self.parts:
            part.commands_before_purge = len(part.tap.commands)
            subscription = await self._crm.set_plan(part.tenant.id, part.tenant.plan)
            days = subscription["entitlements"]["retention_days"]
            _require(days == part.tenant.days, f"{part.tenant.plan} keeps {days} days, {part.tenant.days} are right")
            if part.tenant.plan == "free":
                await self._connections_closed(part)
                # Taking leave of the server is what the end of sync says, not the purge.
                part.commands_before_purge = len(part.tap.commands)
        for part in self.parts:
            await self._finished(await self._crm.purge(part.tenant.id))
            # The gateway purges by itself when a plan shrinks, so ours may have found nothing left to do.
            runs = [await self._finished(run) for run in await self._crm.runs(part.tenant.id)]
            for run in runs:
                _require(run["state"] == "completed", f"{part.tenant.name}: a run {run['state']}: {run['detail']}")
            part.purged = sum(run["purged"] for run in runs)
        sent = sum(len(part.tap.commands) - part.commands_before_purge for part in self.parts)
        await self._show_and_compare()
        said = sum(part.commands_before_purge for part in self.parts)
        _require(sent == 0, f"{sent} commands went to the mail server during the purge")
        self._screen.proved(
            f"IMAP commands on the wire: {said} for the import, [bold]0[/] for the purge (read off the line itself)"
        )

    async def _connections_closed(self, part: Part) -> None:
        deadline = time.monotonic() + 20
        while part.tap.open:
            _require(time.monotonic() < deadline, f"{part.tenant.name} is on plan free and still has a connection")
            await asyncio.sleep(_LOOK_S)
        self._screen.say(f"{part.tenant.name} is on [bold]free[/] now: its connections closed at once")

    async def _finished(self, run: Json) -> Json:
        deadline = time.monotonic() + _RUN_LIMIT_S
        while run.get("finished_at") is None:
            _require(time.monotonic() < deadline, f"run {run['id']} has not finished after {_RUN_LIMIT_S:.0f} s")
            await asyncio.sleep(_LOOK_S)
            run = await self._crm.run(run["id"])
        return run

    async def _show_and_compare(self) -> None:
        rows: list[tuple[str, ...]] = []
        sums = [0, 0, 0, 0, 0]
        for part in self.parts:
            tenant, wanted = part.tenant, part.expected
            left = [message async for message in self._crm.messages(tenant.id)]
            ids = {message["id"] for message in left}
            _require(part.pinned.keys() <= ids, f"{tenant.name}: a pinned message is gone")
            by_age = [message for message in part.messages if _age_days(message, self.now) < tenant.days]
            _require(
                len(by_age) == wanted.young, f"{tenant.name}: {len(by_age)} young copies, {wanted.young} are right"
            )
            kept = {message["id"] for message in by_age} | part.pinned.keys()
            _require(ids == kept, f"{tenant.name}: {len(ids)} copies are left, {len(kept)} are right")
            purged = wanted.imported - len(kept)
            _require(
                part.purged == purged,
                f"{tenant.name}: the runs say {part.purged} purged, {purged} are right",
            )
            pinned_old = len(kept) - wanted.young
            figures = [wanted.imported, wanted.young, pinned_old, purged, wanted.on_server]
            sums = [a + b for a, b in zip(sums, figures, strict=True)]
            why = f"{tenant.days} days"
            bar = _bar(wanted.young, pinned_old, purged)
            rows.append((tenant.plan, why, *(str(figure) for figure in figures[:4]), bar))
        end = ("all six", "", *(str(figure) for figure in sums[:4]), "[green]age[/] [yellow]pin[/] [red]purged[/]")
        columns = [
            ("plan", "bold"),
            ("keeps", ""),
            ("imported", ""),
            ("young", "green"),
            ("pinned", "yellow"),
            ("purged", "red"),
            ("", ""),
        ]
        self._screen.say("[green]young[/]: within the plan's days · [yellow]pinned[/]: older, but attached to a record")
        self._screen.table(columns, rows, end=end)
        self._screen.proved("every figure equals the one worked out from the mail and the rules alone")
        await self._gone_and_kept()

    async def _gone_and_kept(self) -> None:
        part = self.parts[0]
        purged = next(message for message in part.messages if message["id"] not in part.pinned)
        try:
            await self._crm.message(part.tenant.id, purged["id"])
        except ApiError as error:
            _require(error.status == 410, f"a purged message answers {error.status}")
            self._screen.proved(
                f"a purged message answers [bold]410 {error.slug}[/]; free keeps its pinned ones readable"
            )
        else:
            raise Mismatch("a purged message is still served")
        for message in part.pinned:
            _require(bool(await self._crm.raw(part.tenant.id, message)), "a pinned message has no content")

    async def originals(self) -> None:
        """Asks the mail server again."""
        self._screen.act("Are the originals untouched? The mail server is asked again")
        count = 0
        for part in self.parts:
            after = await self._server.originals(part.tenant.account)
            _require(after == part.before, f"{part.tenant.name}: the mailbox on the server has changed")
            count += sum(map(len, after.values()))
        self._screen.proved(f"all [bold]{count}[/] originals are on the server: same UIDs, same flags, same bytes")

    async def audit(self) -> None:
        """Exports every tenant's log and verifies it without the gateway."""
        self._screen.act("An auditor gets the purge log and checks it offline")
        auditor = Auditor(self._folder)
        rows = []
        last = self._folder
        key = ""
        for part in self.parts:
            archive = self._folder / f"{part.tenant.id}.export"
            await self._crm.export_log(part.tenant.id, archive)
            last = auditor.unpack(archive, part.tenant.id)
            key = (last / "vkey").read_text(encoding="ascii").strip()
            verified = await auditor.check("verify", last, key)
            _require(verified.ok, f"{part.tenant.name}: the log does not verify\n{verified.text}")
            replayed = await auditor.check("replay", last, key)
            _require(replayed.ok, f"{part.tenant.name}: the rules do not hold in the log\n{replayed.text}")
            _, size, root = (last / "checkpoint").read_text(encoding="utf-8").splitlines()[:3]
            rows.append((part.tenant.plan, size, str(part.purged), root[:20] + "…", "✓", "✓"))
            logged = _purges(last)
            _require(
                logged == part.purged,
                f"{part.tenant.name}: {logged} purges in the log, {part.purged} in the runs",
            )
        columns = [
            ("plan", "bold"),
            ("entries", ""),
            ("purges", "red"),
            ("signed root", "dim"),
            ("hashes", "green"),
            ("rules", "green"),
        ]
        self._screen.say("one Merkle log for each tenant, checked by a copy of [bold]retention/ledger[/] alone:")
        self._screen.table(columns, rows)
        self._screen.proved("one entry for each purge; no pinned copy purged, none early: shown from the log alone")
        forged = await auditor.check("verify", auditor.tampered(last), key)
        _require(not forged.ok, "a forged log was accepted")
        self._screen.proved("one letter changed in a copy of the log: refused")

    async def close(self) -> None:
        """Ends the taps."""
        for part in self.parts:
            await part.tap.close()

    now: int = 0
    """The instant to which ages are counted; set by `tell`."""

    async def tell(self, tenants: Sequence[Tenant], *, now: int) -> None:
        """All acts."""
        self.now = now
        await self.prepare(tenants, now=now)
        await self.connect()
        await self.pin()
        await self.purge()
        await self.originals()
        await self.audit()


def _require(fact: bool, text: str) -> None:
    if not fact:
        raise Mismatch(text)


def _bar(young: int, pinned: int, purged: int, width: int = 22) -> str:
    total = max(1, young + pinned + purged)
    green = round(width * young / total)
    yellow = min(width - green, round(width * pinned / total) or (1 if pinned else 0))
    return f"[green]{'█' * green}[/][yellow]{'█' * yellow}[/][red]{'░' * (width - green - yellow)}[/]"


def _age_days(message: Json, now: int) -> float:
    from mailgate.clock import from_rfc3339

    return (now - from_rfc3339(message["anchor_at"])) / 86_400e6


def _purges(log: Path) -> int:
    entries = (path for path in (log / "tile" / "entries").rglob("*") if path.is_file())
    return sum(path.read_bytes().count(b'"type":"item.purge"') for path in entries)
