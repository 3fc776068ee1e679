"""Retention: how a tenant stands, what a purge would do, and the runs that purge."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query
from pydantic import Field
from starlette.responses import HTMLResponse, JSONResponse, Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.store.preview import Example
from mailgate.store.runs import RunRecord
from mailgate.store.tokens import Scope
from mailgate.usecases import retention
from mailgate.usecases.types import Answer, Body, ObjectId, Parameters, TenantId, Time, TimeIn, text
from retention.ledger.certificate_page import POLICY

router = APIRouter(tags=["retention"])


class RetentionAnswer(Answer):
    """How a tenant stands now. `days` is null when the plan is not known: then everything is kept."""

    plan: str
    days: int | None
    copies: int = Field(description="that are served")
    bytes: int
    pinned: int
    held: int
    due_now: int = Field(description="expired, and gone with the next run")
    next_due_at: Time | None


class Counts(Answer):
    """They balance: candidates = purged + kept (all reasons) + failed. A preview's `purged` is what would go."""

    candidates: int
    purged: int
    kept: dict[str, int] = Field(description="by what keeps them: pinned, held, locked, clock, plan_unknown, …")
    failed: int
    bytes: int = Field(description="sizes of what was purged, added up")


class SumAnswer(Answer):
    """So many copies, and the sizes of their originals added up."""

    copies: int
    bytes: int


class ExampleAnswer(Answer):
    """A copy of age: it would go with `reason`, or stays by what `kept_by` says."""

    tenant_id: str
    message_id: str
    mailbox_id: str
    item_ref: str = Field(description="what the purge log calls it")
    anchor_at: Time
    due_at: Time | None
    bytes: int
    reason: str | None
    kept_by: str | None


class PreviewAnswer(Counts):
    """What a run would do. The counts are those of the run: copies of age. `due` and `stays` are all copies, each
    once: those that would go, by reason, and the others by what keeps them.
    """

    tenant_id: str | None = Field(description="null: all tenants")
    at: Time
    plan: str | None = Field(description="that it was judged by; null for all tenants by their own plans")
    days: int | None = Field(description="of that plan; null when it is not known: everything stays")
    due: dict[str, SumAnswer] = Field(description="by reason: age, plan_end, mailbox_removed")
    stays: dict[str, SumAnswer] = Field(description="by reason: held, pinned, not_due, plan_unknown, clock")
    halted_at: dict[str, int] = Field(
        description="by tenant: how many copies would go where the brake would stop such a run (`retention.brake_min`, "
        "`retention.brake_share`). They count as going here; the run takes none of them unless it is approved"
    )
    items: list[ExampleAnswer] = Field(
        description="examples: copies of age, up to `limit` that would go, the oldest first, and as many that stay"
    )


class PreviewQuery(Parameters):
    """What to look at."""

    tenant: TenantId | None = Field(default=None, description="all, when left out")
    at: TimeIn | None = Field(default=None, description="now or later")
    plan: Annotated[str, text(64)] | None = Field(
        default=None, description="as if this plan began at `at`", examples=["crm_plus"]
    )
    limit: int = Field(default=0, ge=0, le=100, description="examples")


class RunBody(Body):
    """A run to make."""

    tenant: TenantId | None = Field(default=None, description="null: all tenants")
    dry_run: bool = Field(default=False, description="only count")
    at: TimeIn | None = Field(default=None, description="for dry runs: as if it were then")
    approve_brake: bool = Field(
        default=False, description="purge although it takes improbably many copies; named in the purge log"
    )
    approve_up_to: int | None = Field(
        default=None,
        ge=1,
        le=2**53 - 1,
        description="with `approve_brake`: of a tenant's copies at most so many; when left out, as many as the last "
        "purge halted at, and the few more that are never improbable (`retention.brake_min`)",
    )
    approve_clock: bool = Field(default=False, description="purge although the clock jumped; named in the purge log")


class PolicyAnswer(Answer):
    """Under which policy a run judged."""

    version: int
    sha256: str


class RunAnswer(Counts):
    """A recorded purge."""

    id: str
    tenant_id: str | None = Field(description="null: all tenants")
    state: str = Field(description="queued, running, completed, halted or failed")
    trigger: str
    actor: str
    dry_run: bool
    now: Time = Field(description="the instant by which everything was judged")
    started_at: Time
    finished_at: Time | None
    policy: PolicyAnswer | None
    detail: str | None = Field(description="why it was halted or failed")
    approved: list[str] = Field(description="what a person let it pass: brake, clock")
    approved_up_to: dict[str, int] | None = Field(
        description="of how many copies the brake's approval is, by tenant; `*`: of every tenant"
    )
    halted_at: dict[str, int] = Field(
        description="by tenant: how many more copies would have gone where the brake stopped it, or of a dry run would "
        "stop it"
    )


class RunQuery(PageQuery):
    """Which runs to list."""

    tenant: TenantId | None = None


class CertificateQuery(Parameters):
    """Whose certificate, in which form."""

    tenant: TenantId | None = Field(default=None, description="of a run over all tenants: only this tenant's")
    format: Literal["json", "html"] | None = Field(default=None, description="when left out, what Accept names first")


class CertificatesAnswer(Answer):
    """Each is complete in itself and can be checked offline with `mailgate audit check-proof`; it has the fields that
    NIST SP 800-88 Rev. 1 asks for in section 4.8.
    """

    run_id: str
    certificates: list[dict[str, Any]]


@router.get(
    "/v1/tenants/{tenant_id}/retention",
    dependencies=[only(Scope.CRM, Scope.COMPLIANCE)],
    responses=problems(404),
)
async def get_retention(tenant: TenantOf, parts: Parts) -> RetentionAnswer:
    """What is kept of the tenant's mail, what is due, and when the next copy will be."""
    status = await parts.retention.status(tenant.id)
    return RetentionAnswer(**{name: getattr(status, name) for name in RetentionAnswer.model_fields})


@router.get("/v1/retention/preview", dependencies=[only(Scope.COMPLIANCE)], responses=problems(404))
async def get_preview(query: Annotated[PreviewQuery, Query()], parts: Parts, who: Who) -> PreviewAnswer:
    """What would go, what stays and why: now or later, by the plans as they are or by another. It is judged as a purge
    judges, and changes nothing.
    """
    tenant_id = retention.tenant_of(who.tenant_id, query.tenant)
    preview = await parts.retention.preview(tenant_id, query.at, query.plan)
    items = []
    if query.limit:
        items = await parts.retention.examples(tenant_id, query.at, query.plan, limit=query.limit)
    rules = preview.rules
    return PreviewAnswer(
        tenant_id=tenant_id,
        at=preview.now_at,
        plan=query.plan if rules is None else rules.plan,
        days=None if rules is None else rules.days,
        due={str(reason): SumAnswer(**asdict(sum_)) for reason, sum_ in preview.due.items()},
        stays={str(kept_by): SumAnswer(**asdict(sum_)) for kept_by, sum_ in preview.kept.items()},
        halted_at=dict(preview.halted_at),
        items=[_example(item) for item in items],
        **_counts(preview.counts.to_json()),
    )


@router.post("/v1/retention/runs", status_code=202, dependencies=[only()], responses=problems(404, 409))
async def start_run(parts: Parts, who: Who, body: RunBody | None = None) -> RunAnswer:
    """Ask for a purge, or for a dry run, which only counts. One that waits already for the same is answered again.

    A run halts where it would take improbably many of a tenant's copies and no change of its plan explains that:
    `approve_brake` lets this one run pass, as far as somebody saw how many go.
    """
    body = body or RunBody()
    tenant_id = retention.tenant_of(who.tenant_id, body.tenant)
    run = await parts.retention.request_run(
        actor=who.actor,
        tenant_id=tenant_id,
        dry_run=body.dry_run,
        at=body.at,
        approve_clock=body.approve_clock,
        approve_brake=body.approve_brake,
        approve_up_to=body.approve_up_to,
    )
    return _show(run)


@router.get("/v1/retention/runs", dependencies=[only(Scope.COMPLIANCE)], responses=problems(400, 404))
async def list_runs(query: Annotated[RunQuery, Query()], parts: Parts, who: Who) -> Items[RunAnswer]:
    """Purges, newest first."""
    tenant_id = retention.tenant_of(who.tenant_id, query.tenant)
    cursors = Cursors("purge_runs", (str,), tenant_id)
    page = await parts.retention.list_page(tenant_id=tenant_id, after=cursors.after(query.cursor), limit=query.limit)
    return cursors.page(page, _show)


@router.get("/v1/retention/runs/{run_id}", dependencies=[only(Scope.COMPLIANCE)], responses=problems(404))
async def get_run(run_id: Annotated[ObjectId, Path()], parts: Parts, who: Who) -> RunAnswer:
    """One purge with its balanced counts."""
    return _show(await retention.run_of(parts, who.tenant_id, run_id))


@router.get(
    "/v1/retention/runs/{run_id}/certificate",
    dependencies=[only(Scope.COMPLIANCE)],
    response_class=Response,
    responses={
        200: {
            "model": CertificatesAnswer,
            "content": {"text/html": {"schema": {"type": "string"}}},
            "description": "What the run did: for programs, or as a page to be printed",
        },
        **problems(404, 409, 503),
    },
)
async def get_certificate(
    run_id: Annotated[ObjectId, Path()],
    query: Annotated[CertificateQuery, Query()],
    parts: Parts,
    who: Who,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """What a run did, for auditors: what, when, who, how, under which policy, counts that balance, what was kept and
    why, and the proofs of it in the log. One certificate for each tenant's log that the run opened.

    JSON; with `format=html`, or when Accept names that first, a page to be printed. Both are signed by the log's key
    and checked offline by `mailgate audit check-proof`.
    """
    tenant_id = retention.tenant_of(who.tenant_id, query.tenant)
    if (query.format or ("html" if _asks_for_a_page(accept) else "json")) == "html":
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "vary": "accept"}
        return HTMLResponse(await retention.certificate_page_of(parts, run_id, tenant_id), headers=headers)
    found = await retention.certificates_of(parts, run_id, tenant_id)
    return JSONResponse({"run_id": run_id, "certificates": found}, headers={"vary": "accept"})


def _asks_for_a_page(accept: str | None) -> bool:
    """Whether a client names HTML before JSON (RFC 9110 section 12.5.1; weights are left aside)."""
    named = [kind.partition(";")[0].strip().lower() for kind in (accept or "").split(",")]
    return [kind for kind in named if kind in ("text/html", "application/json")][:1] == ["text/html"]


def _example(item: Example) -> ExampleAnswer:
    verdict = item.verdict
    return ExampleAnswer(
        tenant_id=item.tenant_id,
        message_id=item.message_id,
        mailbox_id=item.mailbox_id,
        item_ref=item.item_ref,
        anchor_at=item.anchor_at,
        due_at=verdict.due_at,
        bytes=item.bytes,
        reason=verdict.reason,
        kept_by=verdict.kept_by,
    )


def _counts(counts: Any) -> dict[str, Any]:
    return {name: counts.get(name, {} if name == "kept" else 0) for name in Counts.model_fields}


def _show(run: RunRecord) -> RunAnswer:
    policy = run.policy
    return RunAnswer(
        id=run.id,
        tenant_id=run.tenant_id,
        state=run.state,
        trigger=run.trigger,
        actor=str(run.actor),
        dry_run=run.dry_run,
        now=run.now_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        policy=None if policy is None else PolicyAnswer(version=policy["version"], sha256=policy["sha256"]),
        detail=run.detail,
        approved=(policy or {}).get("approved", []),
        approved_up_to=(policy or {}).get("approved_up_to"),
        halted_at=run.counts.get("stopped", {}),
        **_counts(run.counts),
    )
