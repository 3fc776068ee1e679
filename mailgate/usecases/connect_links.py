"""Connect links: who may be sent where afterwards, and connecting a mailbox by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import httpx
from pydantic import Field

from mailgate.actors import Actor
from mailgate.clock import HOUR
from mailgate.errors import PreconditionError
from mailgate.store.connect_links import ConnectLink, LinkSpec
from mailgate.store.mailboxes import Along, Mailbox
from mailgate.store.transaction import Transaction
from mailgate.usecases import connecting
from mailgate.usecases.accounts import Address, MailboxBody, Owner
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Body, TimeIn, text

LONGEST_URL: Final = 2_000
PATH: Final = "/connect"


class ConnectLinkBody(Body):
    """A link to make."""

    owner: Owner | None = None
    address: Address | None = Field(default=None, description="a hint; the person may connect another one")
    shared: bool = False
    return_url: Annotated[str, text(LONGEST_URL)] | None = Field(
        default=None,
        description="where the person goes back to; must be allowed by onboarding.return_urls",
        json_schema_extra={"format": "uri"},
    )
    expires_at: TimeIn | None = Field(default=None, description="null: after onboarding.link_hours")


async def make(parts: Services, tenant_id: str, wanted: ConnectLinkBody, actor: Actor) -> tuple[ConnectLink, str]:
    """Make a link; (link, its URL, to be shown once). Raises PreconditionError (`return_url_refused`), and what
    `ConnectLinks.create` raises.
    """
    now = parts.clock()
    settings = parts.settings
    url = None
    if wanted.return_url is not None:
        url = judged_return_url(wanted.return_url, settings.onboarding.return_urls)
    expires_at = now + settings.onboarding.link_hours * HOUR if wanted.expires_at is None else wanted.expires_at
    spec = LinkSpec(expires_at, wanted.owner, wanted.address, wanted.shared, url)
    link, secret = await parts.links.create(tenant_id, spec, now, actor)
    return link, f"{settings.public_url}{PATH}/{secret}"


async def connect(parts: Services, link: ConnectLink, body: MailboxBody) -> Mailbox:
    """Connect the mailbox and use the link, both or neither. Raises GoneError (`link_used`, …) and what
    `connecting.connect` raises.
    """

    return await connecting.connect(parts, link.tenant_id, body, link.actor, along=using(parts, link))


def using(parts: Services, link: ConnectLink) -> Along:
    """Uses the link in the transaction that makes the mailbox."""

    async def along(tx: Transaction, mailbox_id: str) -> None:
        await parts.links.use(tx, link, mailbox_id, parts.clock())

    return along


def return_address(parts: Services, link: ConnectLink, result: str) -> str | None:
    """Where the person goes back to, with what came of it: `result` connected or declined. None: nowhere, or where the
    settings do not allow any more.
    """
    try:
        url = judged_return_url(link.return_url or "", parts.settings.onboarding.return_urls)
    except PreconditionError:
        return None
    told = {"result": result, "connect_link_id": link.id}
    if link.mailbox_id is not None:
        told["mailbox_id"] = link.mailbox_id
    return str(httpx.URL(url).copy_merge_params(told))


def judged_return_url(text: str, allowed: Sequence[str]) -> str:
    """The URL as it is kept. Raises PreconditionError (`return_url_refused`) unless an allowed beginning covers it: the
    same scheme, host and port, and its path or one below.
    """
    url = _parsed(text)
    if url is None or url.userinfo or url.fragment or not url.host or len(str(url)) > LONGEST_URL:
        raise _refused("it must be a whole URL without user and fragment")
    # What a browser would make of dots and backslashes must not lead out of what is allowed.
    raw = url.raw_path.partition(b"?")[0].lower()
    if b".." in raw or b"%2e" in raw or b"\\" in raw or b"%5c" in raw or "\\" in text:
        raise _refused("its path must be plain")
    for beginning in allowed:
        base = _parsed(beginning)
        if base is None or (base.scheme, base.host, base.port) != (url.scheme, url.host, url.port):
            continue
        path = base.path.rstrip("/")
        if url.path == path or url.path.startswith(f"{path}/"):
            return str(url)
    raise _refused("the setting onboarding.return_urls does not allow it")


def _parsed(text: str) -> httpx.URL | None:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None
    return url if url.scheme in ("https", "http") else None


def _refused(why: str) -> PreconditionError:
    return PreconditionError(f"`return_url`: {why}", slug="return_url_refused")
