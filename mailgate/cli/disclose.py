"""`audit disclose`: open one entry of a tenant's log for one reader. That needs the gateway's keys; checking, none."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from mailgate.cli import session
from mailgate.errors import ConflictError
from mailgate.messages.headers import header_block
from mailgate.messages.parser import parse_summary
from mailgate.store import disclosing, tenants

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

_FIELDS = {"entity", "reason", "msgid"}


def _value(text: str) -> tuple[str, bytes]:
    field, equals, value = text.partition("=")
    if not equals or field not in _FIELDS:
        raise typer.BadParameter(f"write it as {' or '.join(f'{name}=…' for name in sorted(_FIELDS))}")
    return field, value.encode()


def disclose(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    index: Annotated[int, typer.Argument(min=0, metavar="INDEX", help="The entry's index, from 0.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="Where to write it.")],
    original: Annotated[
        Path | None,
        typer.Option(metavar="EML", dir_okay=False, exists=True, help="The message that a purge entry is about."),
    ] = None,
    value: Annotated[
        list[Any] | None,
        typer.Option(
            metavar="FIELD=TEXT",
            parser=_value,
            help="What the gateway does not know any more: entity=ID of a record, reason=… of a hold, msgid=<…>.",
        ),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Open one entry: a file that shows what it commits to, to be checked with `audit check-proof`, offline."""

    async def work() -> dict[str, Any]:
        given = dict(value or [])
        if original is not None:
            given = {**await asyncio.to_thread(_of_message, original), **given}
        async with session.opened() as core:
            found = await tenants.get(core.db, tenant, erased=True)
            text, fields = await disclosing.disclose(
                core.db, core.ring, core.log_reader, found, index, given, core.clock()
            )
            try:
                await asyncio.to_thread(_write, out, text)
            except OSError as error:
                raise ConflictError(f"{out} can't be written: {error.strerror}", slug="disclose_failed") from None
            key = core.log_reader.verifier(found)
        return {"tenant": tenant, "index": index, "file": str(out), "opened": fields, "vkey": key.vkey}

    done = session.run(work())
    if json:
        session.show_json(done)
    else:
        session.say(f"entry {index} opened ({', '.join(done['opened'])}) in {out}; only for who may know it")
        session.say(f"check it: mailgate audit check-proof {quote(str(out))} --vkey '{done['vkey']}'")


def _of_message(path: Path) -> dict[str, bytes]:
    """What entries commit to of a message."""
    raw = path.read_bytes()
    msgid = parse_summary(header_block(raw)).rfc_message_id
    return {"content": hashlib.sha256(raw).digest(), "msgid": (msgid or "").encode()}


def _write(path: Path, text: str) -> None:
    """For the owner's eyes, whoever may read what is there already: what is in it was not for everybody."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, 0o600)
        file.truncate()
        file.write(text)
