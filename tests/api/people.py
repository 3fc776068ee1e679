"""People at the pages, as a browser without script is for them: it keeps cookies and sends forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import httpx

from mailgate.store import users
from mailgate.store.users import Role, User
from tests.api.conftest import Gateway

PASSWORD = "correct horse battery"
TOKEN = re.compile(r'name="token" value="([0-9a-f]{64})"')


@dataclass
class Person:
    """Somebody at a browser of their own."""

    gateway: Gateway
    name: str = "ann"
    password: str = PASSWORD
    client: httpx.AsyncClient = field(init=False)
    token: str = ""

    def __post_init__(self) -> None:
        self.client = self.gateway.with_token(None)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        answer = await self.client.get(path, **more)
        found = TOKEN.search(answer.text)
        if found:
            self.token = found[1]
        return answer

    async def post(self, path: str, form: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        return await self.client.post(path, data={"token": self.token, **(form or {})}, **more)

    async def try_to_sign_in(self, password: str | None = None) -> httpx.Response:
        await self.get("/admin/sign-in")
        form = {"name": self.name, "password": self.password if password is None else password}
        return await self.post("/admin/sign-in", form)

    async def sign_in(self) -> Person:
        answer = await self.try_to_sign_in()
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/mailboxes"), answer.text
        await self.get("/admin/mailboxes")
        return self


async def add(gateway: Gateway, name: str = "ann", role: Role = Role.ADMIN, tenant_id: str | None = None) -> User:
    kept = await gateway.app.state.services.passwords.hash(PASSWORD)
    return await users.create(
        gateway.core.db, name=name, role=role, tenant_id=tenant_id, password_hash=kept, now=gateway.clock()
    )


async def person(gateway: Gateway, name: str = "ann", role: Role = Role.ADMIN, tenant_id: str | None = None) -> Person:
    """Somebody who was added and has signed in."""
    await add(gateway, name, role, tenant_id)
    return await Person(gateway, name).sign_in()
