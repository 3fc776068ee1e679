"""One mailbox: how it is and why, what it was like, and what can be done about it. Connecting one, changing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.responses import HTMLResponse, RedirectResponse, Response

from connectors.autoconfig.model import Discovery, NoAddressError
from mailgate.admin import account_forms
from mailgate.admin.account_forms import SECURITIES, AccountForm
from mailgate.admin.languages import marked
from mailgate.admin.mailboxes import pace, rows_of
from mailgate.admin.page import Page, Route
from mailgate.admin.plots import NARROW, Bar, bars
from mailgate.admin.words import CAUSES_ASIDE, FILTERS, HAPPENED, NEEDS, OUTCOMES, RUN_STATES, SOURCES, STATES, STEPS
from mailgate.clock import DAY, SECOND, Instant
from mailgate.consents.model import ProviderName
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import consents, guards, mailbox_overview, overview, quarantine, runs
from mailgate.store.mailboxes import Mailbox
from mailgate.store.users import Role
from mailgate.sync.state import MailboxState
from mailgate.usecases import connecting, consenting, onboarding
from mailgate.usecases.accounts import AccountPatch, Auth, MailboxPatchBody
from mailgate.usecases.parts import Step, Verification
from mailgate.usecases.remedies import remedy_of

_AT = "/tenants/{tenant_id}/mailboxes/{mailbox_id}"
_SHOWN = 20
_FOLDERS = 200
"""Of more folders those are shown that need a look."""
_DAYS, _CHANGES = 30, 1_000
_TROUBLE = frozenset(FILTERS["trouble"][1])
_MOVING = frozenset({MailboxState.CONNECTING, MailboxState.IMPORTING, MailboxState.BACKOFF})


async def show(page: Page) -> Response:
    """The mailbox."""
    mailbox = await _mailbox(page)
    return page.render("mailbox.html", **await _standing(page, mailbox), **await _past(page, mailbox))


async def standing(page: Page) -> Response:
    """The part of the page that moves."""
    return page.render("mailbox_standing.html", **await _standing(page, await _mailbox(page)))


async def reconnect(page: Page) -> Response:
    """A new password, for the same servers."""
    password = page.form.get("password", "")
    try:
        auth = Auth(password=password)
    except ValidationError:
        raise PreconditionError(page.text("Write the password."), slug="invalid") from None
    mailbox = await _mailbox(page)
    same = AccountPatch(auth=auth)
    patch = MailboxPatchBody(imap=same, smtp=same if mailbox.smtp is not None and page.given("smtp") == "1" else None)
    await connecting.change(page.parts, page.of.id, mailbox.id, patch, page.who.actor)
    return page.go(_at(page), "reconnected")


async def consent(page: Page) -> Response:
    """To the provider, for a new consent. A link, since a form may not lead to another host."""
    mailbox = await _mailbox(page)
    given = (await consents.states(page.parts.db, [mailbox.id])).get(mailbox.id)
    if given is None:
        raise ConflictError("this mailbox has a password", slug="tokens_needed")
    begun = await consenting.begin(
        page.parts,
        page.of.id,
        mailbox.id,
        ProviderName(given.provider),
        page.who.actor,
        return_url=page.parts.settings.public_url + _at(page),
    )
    return RedirectResponse(begun.url, 302)


async def _provider(page: Page, mailbox: Mailbox) -> str | None:
    """Who gave the mailbox's consent, as people know it; None: it has a password, or nobody could be asked."""
    given = (await consents.states(page.parts.db, [mailbox.id])).get(mailbox.id)
    offered = None if given is None else page.parts.tokens.providers.get(ProviderName(given.provider))
    return None if offered is None else offered.provider.title


async def sync_now(page: Page) -> Response:
    """One pass now."""
    await connecting.sync_now(page.parts, page.of.id, page.param("mailbox_id"), page.who.actor)
    return page.go(_at(page), "asked")


async def approve(page: Page) -> Response:
    """Believe exactly the deletions that the guard names."""
    await connecting.approve_guard(
        page.parts, page.of.id, page.param("mailbox_id"), page.param("guard_id"), page.who.actor
    )
    return page.go(_at(page), "approved")


async def retry(page: Page) -> Response:
    """Try again what was set aside."""
    await connecting.try_again(page.parts, page.of.id, page.param("mailbox_id"), page.param("n"), page.who.actor)
    return page.go(_at(page), "retried")


async def ask_remove(page: Page) -> Response:
    """What removing does, before it is done."""
    return page.render("mailbox_remove.html", mailbox=await _mailbox(page), at=_at(page), fault=None)


async def remove(page: Page) -> Response:
    """Remove it, when its address was typed: nobody does that by a slip."""
    mailbox = await _mailbox(page)
    if page.given("address").casefold() != mailbox.address.casefold():
        fault = page.text("This is not the mailbox's address.")
        return page.render("mailbox_remove.html", status=422, mailbox=mailbox, at=_at(page), fault=fault)
    await connecting.remove(page.parts, page.of.id, mailbox.id, page.who.actor)
    return page.go(f"/admin/tenants/{page.of.id}", "removed")


# Connecting and changing.


async def ask_connect(page: Page) -> Response:
    """The form for a new account; with an address, filled with the servers that were found for it."""
    address = page.query("address", 320)
    if not address:
        return _form(page, account_forms.blank())
    try:
        found = await onboarding.find(page.parts, address, page.of.id)
    except NoAddressError:
        faults = {"address": marked("There can be no mailbox with this address.")}
        return _form(page, account_forms.typed({"address": address}, faults), status=422)
    return _form(page, account_forms.found(found), found=_told(page, found))


async def connect(page: Page) -> Response:
    """Check the settings step by step, and connect when all is well, or when the person says so all the same."""
    try:
        body = account_forms.body_of(page.form)
    except ValidationError as error:
        return _form(page, account_forms.typed(page.form, account_forms.faults_of(error)), status=422)
    try:
        tried = None
        if page.given("unchecked") != "1":
            tried = await connecting.verify(page.parts, page.of.id, body.imap, body.smtp, sender=body.address)
        if page.given("do") == "check" or (tried is not None and not tried.ok):
            return _form(page, account_forms.typed(page.form), tried=tried)
        mailbox = await connecting.connect(page.parts, page.of.id, body, page.who.actor)
    except (ConflictError, PreconditionError) as error:
        return _form(page, account_forms.typed(page.form), status=error.status, fault=page.why(error))
    return _done(page, f"/admin/tenants/{page.of.id}/mailboxes/{mailbox.id}", "connected")


async def ask_change(page: Page) -> Response:
    """The form with the mailbox's settings."""
    mailbox = await _mailbox(page)
    return _form(page, account_forms.of_mailbox(mailbox), mailbox=mailbox)


async def change(page: Page) -> Response:
    """Change the settings."""
    mailbox = await _mailbox(page)
    try:
        patch = account_forms.patch_of(page.form, mailbox)
        await connecting.change(page.parts, page.of.id, mailbox.id, patch, page.who.actor)
    except ValidationError as error:
        filled = account_forms.typed(page.form, account_forms.faults_of(error))
        return _form(page, filled, status=422, mailbox=mailbox)
    except (ConflictError, PreconditionError) as error:
        fault = page.why(error)
        if error.slug == "credentials_needed":
            fault = page.text("A password must not go to a server that its owner did not name: write it again.")
        return _form(page, account_forms.typed(page.form), status=error.status, mailbox=mailbox, fault=fault)
    return _done(page, _at(page), "changed")


def _form(
    page: Page,
    form: AccountForm,
    *,
    status: int = 200,
    mailbox: Mailbox | None = None,
    tried: Verification | None = None,
    found: Told | None = None,
    fault: str | None = None,
) -> Response:
    # htmx shows what comes only with 200; it takes the part that says what is wrong, and leaves the fields as they are.
    return page.render(
        "mailbox_outcome.html" if page.partial else "mailbox_form.html",
        status=200 if page.partial else status,
        form=form,
        mailbox=mailbox,
        at=_at(page) if mailbox is not None else f"/admin/tenants/{page.of.id}",
        securities=SECURITIES,
        steps=None if tried is None else [shown(step) for step in tried.steps],
        tried=tried,
        found=found,
        fault=fault,
    )


@dataclass(frozen=True, slots=True)
class Told:
    """What was found for an address, as the page says it."""

    good: bool
    said: str
    provider: str
    needs: list[str]
    help: str | None
    places: list[str]


def _told(page: Page, found: Discovery) -> Told:
    offer = found.offer
    provider = found.domain if offer is None or offer.provider is None else offer.provider
    said = page.text("No servers were found. Write them below.")
    if offer is not None:
        said = page.text(SOURCES[offer.source]) % {"provider": provider}
    needs = [] if offer is None else [page.text(NEEDS[need]) % {"provider": provider} for need in offer.needs]
    places = [f"{at.source} · {at.target}: {at.outcome} {at.detail}".rstrip() for at in found.tried]
    good = offer is not None and offer.certain and not offer.needs
    return Told(good, said, provider, needs, None if offer is None else offer.help, places)


def shown(step: Step) -> tuple[str, bool, str, str | None]:
    """A step of a check as the pages say it: what, whether it went well, in the server's words, what to do."""
    return STEPS.get(step.step, step.step), step.ok, step.detail, remedy_of(step.reason)


def _done(page: Page, at: str, done: str) -> Response:
    if page.partial:
        return HTMLResponse("", headers={"hx-redirect": f"{at}?done={done}"})
    return page.go(at, done)


# What is shown.


async def _mailbox(page: Page) -> Mailbox:
    return (await page.parts.mailboxes.get(page.of.id, page.param("mailbox_id"))).as_of(page.now)


def _at(page: Page) -> str:
    return f"/admin/tenants/{page.of.id}/mailboxes/{page.param('mailbox_id')}"


async def _standing(page: Page, mailbox: Mailbox) -> dict[str, Any]:
    """How it is now."""
    db, now = page.parts.db, page.now
    listed = mailbox_overview.Listed(mailbox, page.of.name)
    (row,) = await rows_of(page, [listed])
    folders = (await overview.folders_of(db, [mailbox.id])).get(mailbox.id, [])
    if len(folders) > _FOLDERS:  # the part that moves is sent every few seconds
        folders.sort(key=lambda folder: (folder.last_error is None, folder.imported_at is not None))
    checked = mailbox.last_checked_at
    removed = mailbox.removed_at is not None
    return {
        "mailbox": mailbox,
        "row": row,
        "state": STATES["removed"] if removed else row.state,
        "folders": folders[:_FOLDERS],
        "folder_count": len(folders),
        "lag_s": None if checked is None else max(0, now - checked) / SECOND,
        "moving": not removed and (mailbox.state in _MOVING or row.closing),
        "at": _at(page),
        "fault": None,
        "pace": pace,
    }


def troubled(changes: Sequence[tuple[Instant, str]], now: Instant, days: int) -> list[tuple[Instant, Instant]]:
    """For each of the last days in UTC, today's the last: when it begins, and how long the mailbox was in trouble.
    `changes`: when it got into which state, newest first; nothing is known of the time before the first.
    """
    today = now // DAY * DAY
    found = [0] * days
    until = now
    for at, state in changes:
        begins = max(at, today - (days - 1) * DAY)
        while state in _TROUBLE and begins < until:
            ends = min(until, (begins // DAY + 1) * DAY)
            found[days - 1 - (today - begins // DAY * DAY) // DAY] += ends - begins
            begins = ends
        until = min(until, at)
    return [(today - (days - 1 - number) * DAY, lasted) for number, lasted in enumerate(found)]


async def _past(page: Page, mailbox: Mailbox) -> Mapping[str, Any]:
    """What it was like, and what waits for a person."""
    db, id_ = page.parts.db, mailbox.id
    words = page.language
    since = page.now // DAY * DAY - (_DAYS - 1) * DAY
    bad = troubled(await mailbox_overview.states_since(db, id_, since, _CHANGES), page.now, _DAYS)
    drawn = [
        Bar(lasted, words.short_day(at), f"{words.day(at)}: {words.lasting(lasted / SECOND)}", "bad")
        for at, lasted in bad
    ]
    longest = max(lasted for _, lasted in bad)
    happened = await mailbox_overview.happened(db, id_, _SHOWN)
    return {
        "guards": (await guards.list_page(db, page.of.id, id_, limit=_SHOWN)).items,
        "aside": (await quarantine.list_page(db, page.of.id, id_, after=None, limit=_SHOWN)).items,
        "runs": (await runs.list_page(db, kind=(runs.SYNC, runs.BACKFILL), mailbox_id=id_, limit=_SHOWN)).items,
        "happened": [
            (entry.at, STATES.get(entry.state or ""), HAPPENED.get(entry.type, entry.type), entry.reason)
            for entry in happened
        ],
        "trouble": [(at, lasted / SECOND) for at, lasted in bad if lasted],
        "trouble_plot": bars(drawn, words.lasting(longest / SECOND), NARROW) if longest else None,
        "days": _DAYS,
        "outcomes": OUTCOMES,
        "causes": CAUSES_ASIDE,
        "run_states": RUN_STATES,
        "most": _SHOWN,
        "consent": await _provider(page, mailbox),
    }


ROUTES = (
    Route("GET", "/tenants/{tenant_id}/connect", ask_connect, Role.ADMIN),
    Route("POST", "/tenants/{tenant_id}/connect", connect, Role.ADMIN),
    Route("GET", _AT, show),
    Route("GET", f"{_AT}/standing", standing),
    Route("GET", f"{_AT}/edit", ask_change, Role.ADMIN),
    Route("POST", f"{_AT}/edit", change, Role.ADMIN),
    Route("POST", f"{_AT}/reconnect", reconnect, Role.ADMIN),
    Route("GET", f"{_AT}/consent", consent, Role.ADMIN),
    Route("POST", f"{_AT}/sync", sync_now, Role.ADMIN),
    Route("POST", f"{_AT}/guards/{{guard_id}}/approve", approve, Role.ADMIN),
    Route("POST", f"{_AT}/quarantine/{{n}}/retry", retry, Role.ADMIN),
    Route("GET", f"{_AT}/remove", ask_remove, Role.ADMIN),
    Route("POST", f"{_AT}/remove", remove, Role.ADMIN),
)
