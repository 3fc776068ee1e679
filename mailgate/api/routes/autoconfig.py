"""The settings of an address' mail servers, found and not tried."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field, model_validator

from connectors.autoconfig.model import Attempt, NoAddressError, Offer, Server
from mailgate.api.problems import problems
from mailgate.api.security import Parts, Who, only
from mailgate.errors import PreconditionError
from mailgate.store.tokens import Scope
from mailgate.usecases import onboarding
from mailgate.usecases.accounts import Address, SecurityWord
from mailgate.usecases.types import Answer, Parameters

router = APIRouter(tags=["onboarding"])

SourceWord = Literal["built_in", "autoconfig", "srv", "mx", "guess"]
OutcomeWord = Literal["found", "nothing", "refused", "unreachable"]
NeedWord = Literal["app_password", "imap_on", "oauth", "bridge", "paid", "no_imap"]


class AddressQuery(Parameters):
    """Which address."""

    address: Address = Field(description="`email` is taken as well")

    @model_validator(mode="before")
    @classmethod
    def _by_either_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and "email" in given and "address" not in given:
            return {("address" if name == "email" else name): value for name, value in given.items()}
        return given


class ServerAnswer(Answer):
    """One server, as `POST …/mailboxes` takes it, without the password."""

    host: str
    port: int
    security: SecurityWord
    username: str


class OfferAnswer(Answer):
    """Settings that were found."""

    source: SourceWord
    guess: bool = Field(description="true: nobody who must know said so")
    provider: str | None = Field(description="what people call it")
    provider_id: str | None
    imap: ServerAnswer | None = Field(description="null: the provider has no IMAP")
    smtp: ServerAnswer | None
    needs: list[NeedWord] = Field(description="what a person must do or have first, see the documentation")
    oauth: str | None = Field(description="who signs people in in place of a password", examples=["google"])
    help: str | None = Field(description="the provider's own words about what is needed")


class AttemptAnswer(Answer):
    """One place that was asked."""

    source: SourceWord
    target: str
    outcome: OutcomeWord
    detail: str


class AutoconfigAnswer(Answer):
    """What was found, and what was tried, in the order of preference."""

    address: str
    domain: str = Field(description="in ASCII, as DNS knows it")
    online: bool = Field(description="false: nobody outside could be asked, or may be (onboarding.lookups)")
    found: OfferAnswer | None
    tried: list[AttemptAnswer]


@router.get("/v1/autoconfig", dependencies=[only(Scope.CRM)], responses=problems(503))
async def find_settings(query: Annotated[AddressQuery, Query()], parts: Parts, who: Who) -> AutoconfigAnswer:
    """The mail servers of an address: a known provider's, what the domain publishes, or a guess that is marked as one.
    No mail server is asked; a redirect, a private address and an answer that is too large are refused as told in
    `tried`.
    """
    try:
        found = await onboarding.find(parts, query.address, who.tenant_id)
    except NoAddressError as error:
        raise PreconditionError(f"`address`: {error}", slug="address_invalid") from None
    return AutoconfigAnswer(
        address=found.address,
        domain=found.domain,
        online=found.online,
        found=None if found.offer is None else _offer(found.offer),
        tried=[_attempt(attempt) for attempt in found.tried],
    )


def _offer(offer: Offer) -> OfferAnswer:
    return OfferAnswer(
        source=offer.source.value,
        guess=not offer.certain,
        provider=offer.provider,
        provider_id=offer.provider_id,
        imap=_server(offer.imap),
        smtp=_server(offer.smtp),
        needs=[need.value for need in offer.needs],
        oauth=offer.oauth,
        help=offer.help,
    )


def _server(server: Server | None) -> ServerAnswer | None:
    if server is None:
        return None
    return ServerAnswer(host=server.host, port=server.port, security=server.security.value, username=server.username)


def _attempt(attempt: Attempt) -> AttemptAnswer:
    return AttemptAnswer(
        source=attempt.source.value, target=attempt.target, outcome=attempt.outcome.value, detail=attempt.detail
    )
