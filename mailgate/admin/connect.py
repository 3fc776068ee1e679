"""The page behind a connect link: who asks for what; the address; the password; each step of the check as it is done.

It works without script. The check is one answer that is sent bit by bit: the head of the page, a line when a step is
over, the end. So a kill or a closed window leaves either a connected mailbox and a used link, or neither, and nothing
to be cleaned up. The secret stands in the address of the page and in the targets of its own forms: in no log, and in no
referrer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as HttpRoute

from connectors.autoconfig.model import Discovery, Need, NoAddressError
from connectors.reasons import Reason
from mailgate.admin import account_forms, security
from mailgate.admin.account_forms import SECURITIES, AccountForm
from mailgate.admin.faults import FAULTS
from mailgate.admin.languages import language, marked, negotiate
from mailgate.admin.mailbox import shown
from mailgate.admin.page import Page
from mailgate.admin.rendering import render
from mailgate.admin.serving import Named, read_form, static_file
from mailgate.admin.words import LINK_OVER, NEEDS
from mailgate.errors import GoneError, MailgateError, PreconditionError
from mailgate.store import tenants
from mailgate.store.access_log import Access, Kind
from mailgate.store.connect_links import ConnectLink, LinkState
from mailgate.store.mailboxes import Mailbox
from mailgate.usecases import connect_links, connecting, consenting, onboarding
from mailgate.usecases.accesses import write_down
from mailgate.usecases.accounts import Account, Auth, MailboxBody, OAuth2
from mailgate.usecases.connect_links import PATH
from mailgate.usecases.parts import Services, Step, Verification

_FIELDS: Final = frozenset(
    {"address"}
    | {f"{name}_{part}" for name in ("imap", "smtp") for part in ("host", "port", "security", "username", "password")}
)
_ADDRESS: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
_NOT_SIGNED_IN: Final = marked("You were not signed in. Try again, or ask whoever sent you here.")
_HERE: Final = "<!-- steps -->"
_UNKNOWN: Final = "unknown"
_UNPAID: Final = "not_entitled"
_STATUS: Final[Mapping[str, int]] = {_UNKNOWN: HTTPStatus.NOT_FOUND, _UNPAID: HTTPStatus.CONFLICT}

Handler = Callable[["Page", ConnectLink], Awaitable[Response]]


def routes(parts: Services) -> list[HttpRoute]:
    """The page over these parts."""
    steps: dict[str, dict[str, Handler]] = {
        "": {"GET": start, "POST": find},
        "/check": {"POST": check},
    }
    made = [
        HttpRoute(f"{PATH}/{{secret}}{step}", _endpoint(parts, f"{PATH}/{{secret}}{step}", by), methods=[*by])
        for step, by in steps.items()
    ]
    nowhere = _endpoint(parts, f"{PATH}/{{rest}}", {"GET": start})
    return [
        HttpRoute(f"{PATH}/static/{{name}}", static_file, methods=["GET"]),
        *made,
        HttpRoute(f"{PATH}/{{rest:path}}", nowhere, methods=["GET"]),
    ]


async def start(page: Page, link: ConnectLink) -> Response:
    """Who asks for what, and the field for the address."""
    result = page.query("result")  # of who comes back from signing in at a provider
    fault = page.text(FAULTS.get(result, _NOT_SIGNED_IN)) if result else None
    return await _start(page, link, link.address or "", fault=fault)


async def find(page: Page, link: ConnectLink) -> Response:
    """The servers of the address, and the field for the password."""
    address = page.given("address")
    if not _ADDRESS.fullmatch(address) or not address.isprintable():
        return await _start(page, link, address[:320], fault=page.text("Write an address like ann@example.com."))
    await page.parts.links.attempt(link, page.now)
    try:
        found = await onboarding.find(page.parts, address, link.tenant_id)
    except NoAddressError:
        return await _start(page, link, address, fault=page.text("There can be no mailbox with this address."))
    about, account = await _about(page, link), _account(page, found)
    return page.render("connect_account.html", **about, **account, sign_in=await _sign_in(page, link, found))


async def check(page: Page, link: ConnectLink) -> Response:
    """Check the settings, each step shown when it is over, and connect when all is well."""
    given = {name: value for name, value in page.form.items() if name in _FIELDS}
    try:
        body = account_forms.body_of(given).model_copy(update={"owner": link.owner, "shared": link.shared})
    except ValidationError as error:
        form = account_forms.typed(given, account_forms.faults_of(error))
        about = await _about(page, link)
        return page.render("connect_account.html", status=422, **about, **_typed(form), sign_in=None)
    await page.parts.links.attempt(link, page.now)
    about = await _about(page, link)
    return StreamingResponse(
        _checking(page, link, body, account_forms.typed(given), about),
        media_type="text/html",
        headers={"x-accel-buffering": "no"},  # what stands in between is to pass each step on (nginx)
    )


async def _checking(
    page: Page, link: ConnectLink, body: MailboxBody, form: AccountForm, about: Mapping[str, Any]
) -> AsyncIterator[str]:
    """The page, bit by bit."""
    code = page.language.code
    common = {**about, "page": page, "token": page.token, "now": page.now}
    head, _, tail = render(code, "connect_check.html", **common, address=body.address).partition(_HERE)
    yield head
    told: asyncio.Queue[Step | None] = asyncio.Queue()
    working = asyncio.create_task(_work(page, link, body, told))
    try:
        while (step := await told.get()) is not None:
            yield render(code, "check_step.html", step=shown(_for_strangers(step)))
        result, fault = await working
        status = HTTPStatus.OK if isinstance(result, Mailbox) else HTTPStatus.UNPROCESSABLE_ENTITY
        await _write_down(page, link, f"{PATH}/{{secret}}/check", status)
        connected = isinstance(result, Mailbox)
        used = await page.parts.links.get(link.tenant_id, link.id) if connected else link
        yield render(
            code,
            "connect_end.html",
            **{**common, "back": connect_links.return_address(page.parts, used, "connected")},
            **_typed(form),
            connected=connected,
            fault=fault,
            address=body.address,
        )
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    yield tail


def _for_strangers(step: Step) -> Step:
    """Where a name leads inside the gateway's own network is nothing that a stranger is told."""
    return step._replace(detail="") if step.reason == Reason.ADDRESS_REFUSED else step


async def _work(
    page: Page, link: ConnectLink, body: MailboxBody, told: asyncio.Queue[Step | None]
) -> tuple[Mailbox | Verification | None, str | None]:
    """Check, and connect if all is well: the mailbox, or what the check came to; and why it ended otherwise."""
    found: Verification | None = None
    try:
        found = await connecting.verify(
            page.parts, link.tenant_id, body.imap, body.smtp, sender=body.address, told=told.put_nowait
        )
        if not found.ok:
            return found, None
        return await connect_links.connect(page.parts, link, body), None
    except MailgateError as error:
        return found, page.why(error)
    finally:
        told.put_nowait(None)


# What the pages show.


async def _start(page: Page, link: ConnectLink, address: str, *, fault: str | None = None) -> Response:
    status = HTTPStatus.OK if fault is None else HTTPStatus.UNPROCESSABLE_ENTITY
    return page.render("connect_start.html", status=status, **await _about(page, link), address=address, fault=fault)


async def _about(page: Page, link: ConnectLink) -> dict[str, Any]:
    """Who asks, what for, and what is kept how long."""
    tenant = await tenants.get(page.parts.db, link.tenant_id)
    holds = await page.parts.subscriptions.allowed(link.tenant_id, page.now)
    return {
        "tenant": tenant.name or tenant.id,
        "service": page.parts.settings.onboarding.service_name,
        "days": holds.retention_days,
        "until": link.expires_at,
        "at": page.request.url.path.removesuffix("/check"),
        "back": connect_links.return_address(page.parts, link, "declined"),
    }


def _account(page: Page, found: Discovery) -> dict[str, Any]:
    """The form for the account, filled with what was found, and what the person needs to know about the provider."""
    offer = found.offer
    provider = found.domain if offer is None or offer.provider is None else offer.provider
    needs = () if offer is None else offer.needs
    return {
        **_typed(account_forms.found(found)),
        "provider": provider,
        "known": offer is not None and offer.provider is not None,
        "needs": [page.text(NEEDS[need]) % {"provider": provider} for need in needs],
        "help": None if offer is None else offer.help,
        "certain": offer is not None and offer.certain,
        "found": offer is not None,
        "possible": Need.NO_IMAP not in needs,
        "ascii_domain": found.domain if found.hides_letters() else None,
    }


async def _sign_in(page: Page, link: ConnectLink, found: Discovery) -> tuple[str, str] | None:
    """Where the person can sign in at the provider in place of writing a password: (name, address); None: nowhere. An
    address, since a form must not lead to another host. They come back to this page.
    """
    offer, parts = found.offer, page.parts
    if offer is None or offer.imap is None:
        return None
    host = offer.imap.host
    name = next((name for name, it in parts.tokens.providers.items() if host in it.hosts), None)
    if name is None:
        return None
    offered = parts.tokens.providers[name]
    auth = Auth(oauth2=OAuth2(provider=name))
    # Tokens of a whole account name it by its address, whatever passwords want (XOAUTH2, OAUTHBEARER).
    account = Account(
        host=host, port=offer.imap.port, security=offer.imap.security.value, username=found.address, auth=auth
    )
    smtp = None
    if offer.smtp is not None and offer.smtp.host in offered.hosts:
        smtp = account.model_copy(
            update={"host": offer.smtp.host, "port": offer.smtp.port, "security": offer.smtp.security.value}
        )
    try:
        body = MailboxBody(address=found.address, owner=link.owner, shared=link.shared, imap=account, smtp=smtp)
        begun = await consenting.begin(
            parts,
            link.tenant_id,
            body,
            name,
            link.actor,
            return_url=f"{parts.settings.public_url}{page.request.url.path}",
            connect_link=link,
        )
    except (ValidationError, PreconditionError):
        return None
    return offered.provider.title, begun.url


def _typed(form: AccountForm) -> dict[str, Any]:
    """What stands in the form, without what is known of the provider."""
    return {
        "form": form,
        "securities": SECURITIES,
        "provider": None,
        "known": False,
        "needs": [],
        "help": None,
        "certain": True,
        "found": True,
        "possible": True,
        "ascii_domain": None,
    }


# Around them.


def _endpoint(parts: Services, template: str, handlers: Mapping[str, Handler]) -> Callable[..., object]:
    async def endpoint(request: Request) -> Response:
        request.scope["route"] = Named(template)
        kept = security.read_cookie(request, parts.settings, security.CONNECT)
        secret = kept or security.new_visit()
        page = Page(
            request=request,
            parts=parts,
            language=language(negotiate(request.headers.get("accept-language"))),
            secret=secret,
            now=parts.clock(),
            token=security.form_token(secret),
        )
        answer = await _answer(page, handlers[request.method])
        if kept is None:
            security.write_cookie(answer, request, parts.settings, security.CONNECT, secret)
        for name, value in security.VISITOR_HEADERS.items():
            answer.headers[name] = value
        answer.headers["cache-control"] = "no-store"
        return answer

    return endpoint


async def _answer(page: Page, handler: Handler) -> Response:
    """The handler's answer, after everything that stands before it."""
    parts = page.parts
    link = await parts.links.find(str(page.request.path_params.get("secret", "")))
    if link is None:
        return _over(page, _UNKNOWN, None)
    if page.request.method != "GET":
        page.form = await read_form(page.request)
        ours = security.is_from_here(page.request, parts.settings, nameless=True)
        if not ours or not security.is_token(page.form.get("token", ""), page.secret):
            at = page.request.url.path.removesuffix("/check")
            return page.render("connect_refused.html", status=HTTPStatus.FORBIDDEN, at=at)
    state = link.state(page.now, parts.links.most_attempts)
    if state is not LinkState.OPEN:
        return _over(page, state.value, link)
    if not (await parts.subscriptions.allowed(link.tenant_id, page.now)).sync:
        return _over(page, _UNPAID, link)
    try:
        return await handler(page, link)
    except GoneError as error:  # meanwhile, by another window
        return _over(page, error.slug.removeprefix("link_"), await parts.links.get(link.tenant_id, link.id))


def _over(page: Page, state: str, link: ConnectLink | None) -> Response:
    """A page that says why nothing can be done here, and what to do."""
    title, text = LINK_OVER[state]
    back = None
    if link is not None:
        back = connect_links.return_address(page.parts, link, "connected" if link.used_at is not None else "declined")
    status = _STATUS.get(state, HTTPStatus.GONE)
    return page.render("connect_over.html", status=status, title=title, text=text, back=back)


async def _write_down(page: Page, link: ConnectLink, template: str, status: int) -> None:
    await write_down(
        page.parts,
        Access(
            kind=Kind.CHANGE,
            actor=str(link.actor),
            tenant_id=link.tenant_id,
            method="POST",
            route=template,
            targets={"connect_link_id": link.id},
            status=int(status),
            at=page.parts.clock(),
            address=page.whence.address,
        ),
    )
