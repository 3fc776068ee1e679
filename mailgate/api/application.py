"""The HTTP application: routes, problem documents, the gate in front, the reference at /docs."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from mailgate import __version__
from mailgate.api import problems, reference
from mailgate.api.accesses import Accesses
from mailgate.api.examples import EXAMPLES
from mailgate.api.gate import Gate, Observed
from mailgate.api.heads import Heads
from mailgate.api.problems import Problem
from mailgate.api.rates import Rates
from mailgate.api.repeats import Repeats
from mailgate.api.routes import (
    access_log,
    alarms,
    autoconfig,
    billing,
    changes,
    connect_links,
    events,
    folders,
    guards,
    health,
    holds,
    mailboxes,
    messages,
    oauth,
    pins,
    purge_log,
    quarantine,
    retention,
    submissions,
    subscription_commands,
    subscriptions,
    tenants,
    tokens,
    webhooks,
)
from mailgate.api.routes.billing import StripeDoor
from mailgate.api.routes.health import HealthDoor
from mailgate.api.routes.submissions import SubmissionBody
from mailgate.api.security import Authenticator
from mailgate.settings import Settings
from mailgate.usecases.parts import Services, upload_places

ROUTERS = (
    tenants.router,
    subscriptions.router,
    subscription_commands.router,
    billing.router,
    autoconfig.router,
    connect_links.router,
    mailboxes.router,
    oauth.router,
    folders.router,
    guards.router,
    quarantine.router,
    messages.router,
    changes.router,
    submissions.router,
    pins.router,
    holds.router,
    events.router,
    webhooks.router,
    retention.router,
    purge_log.router,
    alarms.router,
    tokens.router,
    access_log.router,
    health.router,
)

_PAGE = re.compile(r"Items[_[](\w+?)Answer[_\]]")

_DESCRIPTION = """\
A mail synchronization gateway with plan-based retention.

* `Authorization: Bearer <token>` on all of `/v1`; scopes `admin`, `crm`, `compliance`; perhaps bound to one tenant.
* Times are RFC 3339 in UTC. Errors are RFC 9457 problem documents whose `type` is a stable slug.
* Listings answer `items` and `next_cursor`; ask again with `cursor`.
* A POST that makes something may carry an `Idempotency-Key`: repeated, it answers what it answered before.
"""


@functools.cache
def _routes() -> tuple[BaseRoute, ...]:
    """Everything but the reference. These hold no parts, and FastAPI works out what they take when one is first asked
    for, which takes longer than all else: so once in a process, however many applications it makes.
    """
    router = APIRouter(generate_unique_id_function=lambda route: route.name)
    for part in ROUTERS:
        router.include_router(part)
    return tuple(router.routes)


def create_app(services: Services) -> FastAPI:
    """The application over these parts. `app.state.authenticator` must be flushed before the database is closed."""
    authenticator = Authenticator(services.db, services.clock, services.admin_token)
    limits = services.settings.limits
    app = FastAPI(
        title="mailgate",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[*_routes()],
        middleware=[
            Middleware(Observed, metrics=services.metrics, clock=services.clock),
            Middleware(Heads),
            Middleware(
                Gate,
                authenticator=authenticator,
                rates=Rates(limits.requests_per_minute, limits.requests_burst),
                closed=services.closed,
                uploads=upload_places(limits.uploads_at_once),
                **_bounds(services.settings),
            ),
            Middleware(Accesses, services=services),
            Middleware(Repeats, services=services),
        ],
    )
    app.state.services = services
    app.state.authenticator = authenticator
    stripe = services.stripe
    secrets = services.settings.billing.stripe_secrets
    app.state.stripe_door = StripeDoor(secrets, services.clock, stripe.offers, stripe.apply)
    app.state.health_door = HealthDoor(services)
    problems.install(app)
    # Made when it is first asked for: it takes longer than everything else of the start.
    document = functools.cache(functools.partial(_document, app, services))
    app.include_router(reference.router(document, pages=services.settings.http.docs))
    return app


def _bounds(settings: Settings) -> dict[str, int]:
    """How large bodies of JSON may be: base64 makes four bytes of three, and a letter has more than its files."""
    usual = settings.limits.request_bytes
    return {"request_bytes": usual, "submission_bytes": usual + settings.sending.max_message_bytes * 4 // 3}


def _document(app: FastAPI, services: Services) -> dict[str, Any]:
    """The OpenAPI document, with what FastAPI does not know: problems of the gate, plans, the repeatable POSTs."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=_TAGS
    )
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["Problem"].pop("$defs", {})
    schemas |= _models(SubmissionBody)  # its route takes a message as well, and so reads its body itself
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["SubscriptionBody"]["properties"]["plan"]["enum"] = sorted(services.subscriptions.catalogue.plans)
    _name_pages(document)
    schemas = document["components"]["schemas"]
    for name, example in EXAMPLES.items():
        schemas[name]["examples"] = [example]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return document


def _name_pages(document: dict[str, Any]) -> None:
    """Call pages of a listing `MessagePage`, as classes of a client will be, not `Items_MessageAnswer_`."""
    text = _PAGE.sub(lambda page: f"{page[1]}Page", json.dumps(document))
    document.update(json.loads(text))


def _models(model: type[BaseModel]) -> dict[str, Any]:
    """The schemas of a model and of those inside it."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = schema.pop("$defs", {})
    return inner | {model.__name__: schema}


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    if not path.startswith("/v1/"):
        return
    statuses = [400, 401, 403, 422, 429]
    if "requestBody" in operation:
        statuses += [408, 413, 415]
    for status, response in problems.problems(*statuses).items():
        responses.setdefault(str(status), response)
    if method == "post":
        operation.setdefault("parameters", []).append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "repeated with the same key, the request answers what it answered before",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
            }
        )
        responses.setdefault("409", problems.problems(409)[409])


_TAGS = [
    {"name": "tenants", "description": "Customers of the CRM, and the plans they may be on"},
    {"name": "subscriptions", "description": "The plan that holds, and what it entitles to"},
    {
        "name": "onboarding",
        "description": "Finding a mailbox's settings, and links by which people connect their mailboxes",
    },
    {"name": "mailboxes", "description": "Connected accounts"},
    {"name": "folders", "description": "Folders of the accounts"},
    {"name": "guards", "description": "Deletions at mail servers that were refused as improbable"},
    {"name": "quarantine", "description": "Messages that could not be fetched, read or stored"},
    {"name": "messages", "description": "Copies of mail"},
    {"name": "changes", "description": "Changing mail, and what became of it at the mail server"},
    {"name": "submissions", "description": "Sending mail, and what became of it"},
    {"name": "pins", "description": "What ties a message to records and tasks of the CRM, and keeps it"},
    {"name": "holds", "description": "Stops on purging for compliance matters"},
    {"name": "events", "description": "What happened, in order, and a snapshot to begin from"},
    {"name": "webhooks", "description": "Endpoints to which events are sent, signed and in order"},
    {"name": "retention", "description": "What is due, and the runs that purge it"},
    {"name": "purge log", "description": "The proof of what was purged and what was kept"},
    {"name": "tokens", "description": "Who may do what"},
    {"name": "access log", "description": "Who read or changed what"},
    {"name": "health", "description": "For operators"},
]
