"""What serving pages takes, whoever they are for: forms, files, and names for the metrics."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from mailgate.admin import security
from mailgate.admin.rendering import STATIC, TYPES, assets

_MOST_FIELDS = 100
_FOR_EVER = "public, max-age=31536000, immutable"


class Named:
    """What the metrics, and the log, call the route."""

    def __init__(self, path: str) -> None:
        self.path = path


async def read_form(request: Request) -> dict[str, str]:
    """Fields of the form; the gate has bounded the body's length and checked its type."""
    body = await request.body()
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return {name: value.replace("\0", "") for name, value in pairs}


async def static_file(request: Request) -> Response:
    """A file that pages ask for, by its `name`."""
    request.scope["route"] = Named("/admin/static/{name}")
    found = assets().get(request.path_params["name"])
    if found is None:
        return Response(status_code=HTTPStatus.NOT_FOUND, headers=dict(security.HEADERS))
    kind = TYPES[(STATIC / request.path_params["name"]).suffix]
    return Response(found[0], media_type=kind, headers={**security.HEADERS, "cache-control": _FOR_EVER})
