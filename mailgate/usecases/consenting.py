"""A person consents that the gateway uses an account (RFC 6749 §4.1 with PKCE, RFC 7636; RFC 9700).

    begin    the CRM, or a page, asks for a link: for a mailbox to be, or for one whose consent is over
    follow   the person's browser opens the link, is bound to it by a cookie, and goes on to the provider
    finish   the provider sends the browser back; the code becomes tokens, and the mailbox is connected

`state` is 256 random bits, good once, for a quarter of an hour, in the browser that followed the link, and for one
provider, which has an address of its own to send people back to (RFC 9700 §4.4: no mix-up).
"""

from __future__ import annotations

import base64
import hashlib
import http
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from connectors.errors import clean_text
from connectors.oauth.errors import ConsentLapsedError, TokenEndpointError
from connectors.oauth.model import consent_url
from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.consents.model import FLOW_LIFE, ProviderName
from mailgate.errors import ConflictError, MailgateError, NotFoundError, PreconditionError
from mailgate.store import consent_flows
from mailgate.store.access_log import Access, Kind
from mailgate.store.connect_links import ConnectLink
from mailgate.store.consent_flows import Flow
from mailgate.usecases import connecting, giving
from mailgate.usecases.accesses import write_down
from mailgate.usecases.accounts import AccountPatch, Auth, MailboxBody, MailboxPatchBody, OAuth2
from mailgate.usecases.connect_links import judged_return_url, using
from mailgate.usecases.giving import Server
from mailgate.usecases.parts import Services

LINK = "/v1/oauth/go/"
LONGEST_SECRET = 100


@dataclass(frozen=True, slots=True)
class Begun:
    """A link that a person is to open, once, before it expires."""

    url: str
    expires_at: Instant


@dataclass(frozen=True, slots=True)
class Followed:
    """Where the browser goes on, and the cookie by which it is known again."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What the provider sent the browser back with."""

    state: str
    code: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of it: the mailbox, or a slug of what went wrong with a text; and where the person goes on."""

    mailbox_id: str | None
    code: str | None
    detail: str | None
    return_url: str | None

    @property
    def target(self) -> str | None:
        """`return_url` with the outcome in its query."""
        if self.return_url is None:
            return None
        told = {"result": "connected", "mailbox_id": self.mailbox_id} if self.code is None else {"result": self.code}
        return self.return_url + ("&" if "?" in self.return_url else "?") + urlencode(told)


async def begin(
    parts: Services,
    tenant_id: str,
    wanted: MailboxBody | str,
    provider: ProviderName,
    actor: Actor,
    *,
    return_url: str | None = None,
    connect_link: ConnectLink | None = None,
) -> Begun:
    """A link for a mailbox to be, whose `auth` is `oauth2` of the provider without tokens, or for the mailbox with an
    id. `connect_link`: is used when the mailbox is made. Raises NotFoundError, ConflictError (not_entitled,
    mailbox_removed), PreconditionError (return_url_refused and what `giving.judge` raises).
    """
    giving.offered(parts, provider)
    if return_url is not None:
        allowed = (parts.settings.public_url, *parts.settings.onboarding.return_urls)
        return_url = judged_return_url(return_url, allowed)
    await connecting.require_sync(parts, tenant_id)
    about: dict[str, Any] = {"actor": [actor.kind, actor.ref], "return_url": return_url, "verifier": _random(48)}
    if connect_link is not None:
        about["connect_link_id"] = connect_link.id
    if isinstance(wanted, str):
        mailbox = await parts.mailboxes.get(tenant_id, wanted)
        if mailbox.removed_at is not None:
            raise ConflictError("this mailbox was removed; connect the account again", slug="mailbox_removed")
        auth = Auth(oauth2=OAuth2(provider=provider))
        accounts = {"imap": mailbox.imap, **({} if mailbox.smtp is None else {"smtp": mailbox.smtp})}
        servers = [Server(name, str(it["host"]), str(it["security"]), auth) for name, it in accounts.items()]
        giving.judge(parts, _taking(parts, servers, provider))
        about |= {"mailbox_id": wanted, "hint": str(mailbox.imap["username"])}
    else:
        if giving.judge(parts, connecting.servers_of(wanted)) is not provider:
            raise PreconditionError(f"mailbox: no auth of it is oauth2 of {provider}", slug="one_consent")
        about |= {"mailbox": wanted.model_dump(mode="json", exclude_unset=True), "hint": wanted.imap.username}
    secret, now = _random(32), parts.clock()
    flow = Flow(tenant_id, provider.value, about)
    await consent_flows.begin(parts.db, parts.ring, _hash(secret), flow, now + FLOW_LIFE, now)
    return Begun(f"{parts.settings.public_url}{LINK}{secret}", now + FLOW_LIFE)


async def follow(parts: Services, secret: str, cookie: str | None) -> Followed:
    """The person opened the link. Raises NotFoundError (consent_link_over)."""
    cookie = cookie or _random(32)
    found = await consent_flows.follow(parts.db, parts.ring, _hash(secret), _hash(cookie), parts.clock())
    if found is None:
        raise NotFoundError("this link is over, or was opened elsewhere; ask for a new one", slug="consent_link_over")
    offered = giving.offered(parts, ProviderName(found.provider))
    url = consent_url(
        offered.provider,
        redirect_uri=offered.redirect_uri,
        state=secret,
        verifier=str(found.about["verifier"]),
        login_hint=str(found.about["hint"]),
    )
    return Followed(url, cookie)


async def finish(
    parts: Services, provider: ProviderName, answered: Answered, cookie: str | None, address: str | None = None
) -> Finished:
    """The browser came back, from a network `address`; what came of it stands in the access log, as done by who asked
    for the link. Raises NotFoundError (consent_link_over): nothing is known of it.
    """
    flow = None
    if answered.state and cookie:
        state, browser = _hash(answered.state), _hash(cookie)
        flow = await consent_flows.take(parts.db, parts.ring, state, browser, provider.value, parts.clock())
    if flow is None:
        raise NotFoundError("this answer belongs to no link that is open; begin again", slug="consent_link_over")
    return_url, actor = flow.about["return_url"], Actor(*flow.about["actor"])
    try:
        finished = Finished(await _redeem(parts, provider, flow, answered, actor), None, None, return_url)
    except MailgateError as error:
        finished = Finished(None, error.slug, error.detail, return_url)
    entry = Access(
        kind=Kind.CHANGE,
        actor=str(actor),
        tenant_id=flow.tenant_id,
        method="GET",
        route="/v1/oauth/callback/{provider}",
        targets={} if finished.mailbox_id is None else {"mailbox_id": finished.mailbox_id},
        status=int(http.HTTPStatus.OK if finished.code is None else http.HTTPStatus.UNPROCESSABLE_ENTITY),
        at=parts.clock(),
        address=address,
    )
    await write_down(parts, entry)
    return finished


def cookie_name(secret: str) -> str:
    """Of the link with this secret: people may follow several at a time."""
    return "mailgate_consent_" + _hash(secret).hex()[:16]


async def _redeem(parts: Services, provider: ProviderName, flow: Flow, answered: Answered, actor: Actor) -> str:
    if answered.error is not None or not answered.code:
        said = clean_text(answered.error or "no code", 60)
        slug = "consent_denied" if answered.error in ("access_denied", "consent_required") else "provider_refused"
        raise PreconditionError(f"{provider} answered {said}", slug=slug)
    await connecting.require_sync(parts, flow.tenant_id)  # who has no synchronization asks nobody for tokens
    offered = giving.offered(parts, provider)
    try:
        tokens = await parts.tokens.client.redeem(
            offered.provider,
            code=answered.code,
            verifier=str(flow.about["verifier"]),
            redirect_uri=offered.redirect_uri,
        )
    except ConsentLapsedError as error:
        raise PreconditionError(str(error), slug="provider_refused") from None
    except TokenEndpointError as error:
        raise PreconditionError(str(error), slug="provider_refused" if error.ours else "provider_unavailable") from None
    if tokens.refresh_token is None:
        why = f"{provider} gave no refresh token, without which the consent lasts an hour"
        raise PreconditionError(why, slug="no_refresh_token")
    given = parts.tokens.given(provider, tokens, tokens.refresh_token)
    wanted = flow.about.get("mailbox")
    if wanted is not None:
        body = MailboxBody.model_validate(wanted)
        giving.judge(parts, connecting.servers_of(body))
        along = None
        if "connect_link_id" in flow.about:
            along = using(parts, await parts.links.get(flow.tenant_id, str(flow.about["connect_link_id"])))
        return (await connecting.keep(parts, flow.tenant_id, body, given, actor, along=along)).id
    mailbox_id = str(flow.about["mailbox_id"])
    auth = AccountPatch(auth=Auth(oauth2=OAuth2(provider=provider)))
    mailbox = await parts.mailboxes.get(flow.tenant_id, mailbox_id)
    smtp = mailbox.smtp is not None and str(mailbox.smtp["host"]).lower() in offered.hosts
    patch = MailboxPatchBody(imap=auth, smtp=auth if smtp else None)
    return (await connecting.change(parts, flow.tenant_id, mailbox_id, patch, actor, given=given)).id


def _taking(parts: Services, servers: list[Server], provider: ProviderName) -> list[Server]:
    """Those that a new consent is for: reading, and sending too where its server is the provider's."""
    hosts = giving.offered(parts, provider).hosts
    return [server for server in servers if server.name == "imap" or server.host.lower() in hosts]


def _random(size: int) -> str:
    return base64.urlsafe_b64encode(os.urandom(size)).rstrip(b"=").decode()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret[:LONGEST_SECRET].encode("utf-8", "surrogatepass")).digest()
