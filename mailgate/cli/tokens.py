"""`token create`, `token list`, `token revoke`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mailgate.cli import session
from mailgate.clock import Instant, to_rfc3339
from mailgate.store import tokens
from mailgate.store.tokens import Scope, Token

app = typer.Typer(help="Bearer tokens for the HTTP interface.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

_PAGE = 200


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be given several times.")],
    tenant: Annotated[str | None, typer.Option(help="Only for this tenant.")] = None,
    expires: Annotated[
        Instant | None, typer.Option(metavar="TIME", parser=session.instant, help="When it ends (RFC 3339).")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Make a token and show it, once."""

    async def work() -> dict[str, Any]:
        async with session.opened() as core:
            token, secret = await tokens.create(
                core.db, name=name, scopes=scope, tenant_id=tenant, expires_at=expires, now=core.clock()
            )
            return {**_show(token), "token": secret}

    made = session.run(work())
    if json:
        session.show_json(made)
    else:
        session.say(f"token {made['id']}, shown only now: {made['token']}")


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """All tokens, newest first."""

    async def work() -> list[dict[str, Any]]:
        async with session.opened() as core:
            found = await session.every(
                lambda after: tokens.list_page(core.db, tenant_id=None, after=after, limit=_PAGE)
            )
            return [_show(token) for token in found]

    found = session.run(work())
    if json:
        session.show_json(found)
        return
    rows = [
        [
            item["id"],
            item["name"],
            " ".join(item["scopes"]),
            item["tenant_id"] or "all",
            item["last_used_at"] or "never",
            "revoked" if item["revoked_at"] else item["expires_at"] or "valid",
        ]
        for item in found
    ]
    session.show_table("Tokens", ["id", "name", "scopes", "tenant", "last used", "valid"], rows)


@app.command()
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID")], *, json: Json = False) -> None:
    """End a token at once."""

    async def work() -> None:
        async with session.opened() as core:
            await tokens.revoke(core.db, token_id, tenant_id=None, now=core.clock())

    session.run(work())
    if json:
        session.show_json({"revoked": token_id})
    else:
        session.say(f"token {token_id} is revoked")


def _show(token: Token) -> dict[str, Any]:
    times = {name: getattr(token, name) for name in ("created_at", "expires_at", "last_used_at", "revoked_at")}
    return {
        "id": token.id,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "tenant_id": token.tenant_id,
        **{name: None if at is None else to_rfc3339(at) for name, at in times.items()},
    }
