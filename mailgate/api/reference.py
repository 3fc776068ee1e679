"""/openapi.json, and /docs: the same as a page, made here: no request leaves the house and no script runs."""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse, RedirectResponse, Response

_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem 1.5rem 4rem}
nav{columns:3;font-size:.85rem;margin:1rem 0 2rem}nav a{display:block;text-decoration:none}
code,pre{font:13px/1.5 ui-monospace,monospace}
pre{background:var(--soft);padding:.7rem 1rem;overflow:auto;border-radius:6px}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}.m{display:inline-block;min-width:4.5rem;font-weight:700;font-family:ui-monospace,monospace}
table{border-collapse:collapse;width:100%;margin:.5rem 0}.q{opacity:.7}
td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line)}
"""


def router(document: Callable[[], dict[str, Any]], *, pages: bool) -> APIRouter:
    """The routes for this document; without `pages` only the machine-readable one."""
    made = APIRouter(include_in_schema=False)

    @functools.cache
    def page() -> str:
        return render(document())

    @functools.cache
    def machine_readable() -> bytes:
        """Made once: anybody may ask for it."""
        return json.dumps(document(), ensure_ascii=False).encode()

    @made.get("/openapi.json")
    async def openapi() -> Response:
        return Response(machine_readable(), media_type="application/json")

    if pages:
        headers = {
            "content-security-policy": _CSP,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }

        @made.get("/docs")
        async def docs() -> Response:
            return HTMLResponse(page(), headers=headers)

        @made.get("/")
        async def entrance() -> Response:
            """For people who open the bare address."""
            return RedirectResponse("/docs", 303)

    return made


def render(document: dict[str, Any]) -> str:
    """The reference as HTML: by tag, each operation with parameters, body, answers and a command to try."""
    info = document["info"]
    groups: dict[str, list[tuple[str, str, dict[str, Any]]]] = {tag["name"]: [] for tag in document.get("tags", [])}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append((method, path, operation))
    about = {tag["name"]: tag.get("description", "") for tag in document.get("tags", [])}
    body = [f"<h1>{_e(info['title'])} {_e(info['version'])}</h1>", f"<pre>{_e(info['description'])}</pre>"]
    body.append('<p>The same for machines: <a href="/openapi.json">/openapi.json</a></p><nav>')
    for operations in groups.values():
        body += [f'<a href="#{_e(op["operationId"])}"><code>{m.upper()} {_e(p)}</code></a>' for m, p, op in operations]
    body.append("</nav>")
    for name, operations in groups.items():
        if operations:
            body += [f"<h2>{_e(name)}</h2>", f"<p>{_e(about.get(name, ''))}</p>"]
            for method, path, operation in operations:
                body += _operation(document, method, path, operation)
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_e(info['title'])}</title>"
    return f"<!doctype html><html lang=en>{head}<style>{_STYLE}</style><body>{''.join(body)}</body></html>"


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    described = " ".join(str(operation.get("description", operation.get("summary", ""))).split())
    yield f'<details id="{_e(operation["operationId"])}"><summary>'
    yield f"<span class=m>{method.upper()}</span><code>{_e(path)}</code>"
    yield f"<br><span class=q>{_e(described)}</span></summary>"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>"
        for parameter in parameters:
            schema = parameter.get("schema", {})
            text = parameter.get("description") or schema.get("description", "")
            name = parameter["name"] + ("" if parameter.get("required") else " ?")
            yield f"<tr><td><code>{_e(name)}</code></td><td>{_e(parameter['in'])}</td>"
            yield f"<td><code>{_e(_type(document, schema))}</code></td><td>{_e(text)}</td></tr>"
        yield "</table>"
    schema = _json_schema(operation.get("requestBody", {}))
    if schema is not None:
        yield f"<p>Body</p><pre>{_e(_shape(document, schema))}</pre>"
    for status, response in sorted(operation["responses"].items()):
        yield f"<p><b>{_e(status)}</b> {_e(response.get('description', ''))}</p>"
        answer = _json_schema(response)
        if answer is not None and int(status) < 300:
            yield f"<pre>{_e(_shape(document, answer))}</pre>"
    data = " -H 'Content-Type: application/json' -d '{…}'" if schema is not None else ""
    if "message/rfc822" in operation.get("requestBody", {}).get("content", {}):
        data = " -H 'Content-Type: message/rfc822' --data-binary @message.eml"
    command = f'curl -X {method.upper()} -H "Authorization: Bearer $TOKEN"{data} $MAILGATE{path}'
    yield f"<pre>{_e(command)}</pre></details>"


def _json_schema(holder: dict[str, Any]) -> dict[str, Any] | None:
    schema: dict[str, Any] | None = holder.get("content", {}).get("application/json", {}).get("schema")
    return schema


def _shape(document: dict[str, Any], schema: dict[str, Any], depth: int = 0) -> str:
    """An object as a person would sketch it: a field a line, with its type and what it means."""
    schema = _resolve(document, schema)
    if "properties" not in schema or depth > 4:
        return _type(document, schema)
    pad = "  " * (depth + 1)
    lines = ["{"]
    for name, field in schema["properties"].items():
        optional = "" if name in schema.get("required", []) else "?"
        inner = _inner(document, field)
        value = _shape(document, inner, depth + 1) if inner is not None else _type(document, field)
        value = f"[{value}]" if inner is not None and _variant(document, field).get("type") == "array" else value
        note = f"  # {field['description']}" if "description" in field else ""
        lines.append(f"{pad}{name}{optional}: {value}{note}")
    return "\n".join([*lines, "  " * depth + "}"])


def _inner(document: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The object that a field is, or is a list of."""
    found = _variant(document, field)
    if found.get("type") == "array":
        found = _resolve(document, found.get("items", {}))
    return found if "properties" in found else None


def _variant(document: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """What a field is when it is not null."""
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    return _resolve(document, kinds[0] if kinds else field)


def _type(document: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = _resolve(document, schema)
    if "anyOf" in schema:
        return " | ".join(_type(document, kind) for kind in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        return f"[{_type(document, schema.get('items', {}))}]"
    return str(schema.get("format") or schema.get("type") or "any")


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return document["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema


def _e(text: object) -> str:
    return html.escape(str(text))
