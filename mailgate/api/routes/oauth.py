"""Consents of people (OAuth 2.0): the link that a person opens, and where the provider sends them back to. These two
are open without a token: the link is the secret, and the answer fits only the browser that opened it.
"""

from __future__ import annotations

import html
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import HTMLResponse, RedirectResponse, Response

from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.clock import SECOND
from mailgate.consents.model import FLOW_LIFE, ProviderName
from mailgate.errors import MailgateError
from mailgate.store.tokens import Scope
from mailgate.usecases import consenting
from mailgate.usecases.accounts import MailboxBody, Provider
from mailgate.usecases.consenting import Answered
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, Body, ObjectId, Time, one_of

router = APIRouter(tags=["mailboxes"])

_OPEN: dict[str, Any] = {"security": []}
_PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>mailgate</title>
<p>{}</p>
</html>
"""
_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}


class ProviderAnswer(Answer):
    """A provider that is set up, and the mail servers that take its access tokens."""

    name: ProviderName
    title: str
    hosts: list[str]


class ProvidersAnswer(Answer):
    """Where people can sign in."""

    items: list[ProviderAnswer]


class StartBody(Body):
    """A consent that a person is to give: for a mailbox to be, whose `auth` is `{"oauth2": {"provider": …}}`, or for
    one that is connected.
    """

    model_config = ConfigDict(json_schema_extra=lambda schema: one_of(schema, ("mailbox", "mailbox_id")))

    provider: Provider
    mailbox: MailboxBody | None = None
    mailbox_id: ObjectId | None = None
    return_url: Annotated[str, Field(max_length=2_000)] | None = Field(
        default=None, description="where the person goes on afterwards, with `result` and `mailbox_id` in the query"
    )

    @model_validator(mode="after")
    def _one(self) -> StartBody:
        named = self.model_fields_set & {"mailbox", "mailbox_id"}
        if len(named) != 1 or (self.mailbox is None) == (self.mailbox_id is None):
            raise ValueError("give either mailbox or mailbox_id")
        return self


class StartAnswer(Answer):
    """The link for the person's browser, good once."""

    url: str
    expires_at: Time


@router.get("/v1/oauth/providers", dependencies=[only(Scope.CRM)])
async def list_providers(parts: Parts) -> ProvidersAnswer:
    """The providers that are set up: where people can sign in instead of giving a password."""
    return ProvidersAnswer(
        items=[
            ProviderAnswer(name=name, title=it.provider.title, hosts=sorted(it.hosts))
            for name, it in parts.tokens.providers.items()
        ]
    )


@router.post(
    "/v1/tenants/{tenant_id}/oauth/start",
    status_code=201,
    dependencies=[only(Scope.CRM)],
    responses=problems(404, 409),
)
async def start_consent(tenant: TenantOf, body: StartBody, parts: Parts, who: Who) -> StartAnswer:
    """A link by which a person signs in at the provider and lets the gateway use the account. Once they have, the
    mailbox is connected, or connected anew.
    """
    wanted = body.mailbox if body.mailbox is not None else body.mailbox_id or ""
    begun = await consenting.begin(parts, tenant.id, wanted, body.provider, who.actor, return_url=body.return_url)
    return StartAnswer(url=begun.url, expires_at=begun.expires_at)


@router.get("/v1/oauth/go/{secret}", openapi_extra=_OPEN, response_class=Response, responses={302: {}, **problems(404)})
async def follow_consent(
    secret: Annotated[str, Path(max_length=consenting.LONGEST_SECRET)], request: Request, parts: Parts
) -> Response:
    """For the person's browser: on to the provider."""
    name = consenting.cookie_name(secret)
    try:
        followed = await consenting.follow(parts, secret, request.cookies.get(name))
    except MailgateError as error:
        return _page(error.status, error.detail)
    answer = RedirectResponse(followed.url, status_code=302, headers=_HEADERS)
    _set_cookie(answer, parts, name, followed.cookie)
    return answer


@router.get(
    "/v1/oauth/callback/{provider}", openapi_extra=_OPEN, response_class=Response, responses={303: {}, **problems(404)}
)
async def finish_consent(
    provider: Annotated[ProviderName, Path()],
    request: Request,
    parts: Parts,
    state: Annotated[str, Query(max_length=consenting.LONGEST_SECRET)] = "",
    code: Annotated[str | None, Query(max_length=4_000)] = None,
    error: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """For the person's browser, as the provider sends it back."""
    name = consenting.cookie_name(state)
    try:
        finished = await consenting.finish(
            parts,
            provider,
            Answered(state, code, error),
            request.cookies.get(name),
            None if request.client is None else request.client.host,
        )
    except MailgateError as refused:
        return _page(refused.status, refused.detail)
    answer: Response
    if finished.target is not None:
        answer = RedirectResponse(finished.target, status_code=303, headers=_HEADERS)
    elif finished.code is None:
        answer = _page(200, "The mailbox is connected. You can close this page.")
    else:
        answer = _page(422, finished.detail or finished.code)
    _set_cookie(answer, parts, name, None)
    return answer


def _page(status: int, text: str) -> Response:
    return HTMLResponse(_PAGE.format(html.escape(text)), status_code=status, headers=_HEADERS)


def _set_cookie(answer: Response, parts: Services, name: str, value: str | None) -> None:
    answer.set_cookie(
        name,
        value or "",
        max_age=0 if value is None else FLOW_LIFE // SECOND,
        path="/v1/oauth/",
        secure=parts.settings.public_url.startswith("https:"),
        httponly=True,
        samesite="lax",  # the provider's page leads back here
    )
