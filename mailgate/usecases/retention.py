"""Retention for whoever asks: what a purge would do, its runs and their certificates, as far as they are theirs.

`bound` is the tenant that a token or a person is bound to; None: all tenants are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailgate.errors import ConflictError, NotFoundError
from mailgate.store import preview as preview_rows
from mailgate.store import runs, tenants
from mailgate.store.certificates import certificates
from mailgate.store.runs import RunRecord
from mailgate.usecases.parts import Services
from retention.ledger.certificate_page import page, sign_page
from retention.model import Sum, Supposed


def tenant_of(bound: str | None, tenant_id: str | None) -> str | None:
    """Whom a question is about: the tenant that is named, else the asker's own, else all. Raises NotFoundError for
    another tenant than the asker's own.
    """
    if tenant_id is not None and bound not in (None, tenant_id):
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return tenant_id or bound


async def ahead(parts: Services, tenant_id: str | None, days: preview_rows.Days, plan: str | None = None) -> list[Sum]:
    """What will become due from each of these instants to the next, as `preview` judges
    (`mailgate.store.preview.ahead`). Raises PreconditionError (plan_unknown), NotFoundError.
    """
    supposed = None
    if plan is not None:
        found = parts.subscriptions.plan(plan)
        supposed = Supposed(found.name, found.retention_days)
    if tenant_id is not None:
        ids = [(await tenants.get(parts.db, tenant_id)).id]
    else:
        ids = list(await parts.subscriptions.all_entitlements(days.now))
    return await preview_rows.ahead(parts.db, parts.expiry, ids, days, supposed)


async def longest_days(parts: Services, plan: str | None) -> int:
    """How long copies are kept at most: by this plan, or by those that tenants have now."""
    if plan is not None:
        return parts.subscriptions.plan(plan).retention_days
    entitled = (await parts.subscriptions.all_entitlements(parts.clock())).values()
    return max((held.retention_days or 0 for held in entitled), default=0)


async def run_of(parts: Services, bound: str | None, run_id: str) -> RunRecord:
    """A purge. One over all tenants counts other tenants' copies too: not for who is bound to one. Raises
    NotFoundError.
    """
    run = await parts.retention.get(run_id)
    if run.kind != runs.PURGE or bound not in (None, run.tenant_id):
        raise _no_run(run_id)
    return run


async def certificates_of(parts: Services, run_id: str, tenant_id: str | None) -> Sequence[Mapping[str, Any]]:
    """The certificates of a run, or the tenant's among them. Of a run that only the logs know they are made as well: an
    erasure of a tenant, a purge of years ago, or of after a backup that was restored since. Raises NotFoundError,
    ConflictError (`run_not_finished`, `nothing_to_certify`), and as `mailgate.store.certificates` does.
    """
    run = await runs.find(parts.db, run_id)
    if run is not None:
        if run.kind != runs.PURGE or (tenant_id is not None and run.tenant_id not in (None, tenant_id)):
            raise _no_run(run_id)
        if run.state in (runs.QUEUED, runs.RUNNING):
            raise ConflictError("the run has not ended; ask again when it has", slug="run_not_finished")
        tenant_id = run.tenant_id or tenant_id
    found = await certificates(parts.db, parts.log_reader, run_id, tenant_id, parts.clock())
    if not found and run is None:
        raise _no_run(run_id)
    if not found:
        why = "a dry run purges nothing" if run is not None and run.dry_run else "the run opened no log of this"
        raise ConflictError(f"{why}: there is nothing to certify", slug="nothing_to_certify")
    return found


async def certificate_page_of(parts: Services, run_id: str, tenant_id: str | None) -> str:
    """The same as a page to be printed, signed by the key of each log. Raises as `certificates_of` does."""
    found = await certificates_of(parts, run_id, tenant_id)
    signers = [parts.log_reader.signer_of(told["log"]["tenant_ref"]) for told in found]
    return sign_page(page(found, f"Purge {run_id}"), *signers)


def _no_run(run_id: str) -> NotFoundError:
    return NotFoundError(f"there is no run {run_id!r}", slug="run_not_found")
