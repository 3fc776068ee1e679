"""The demonstration's CRM: a client of the HTTP interface and of nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from mailgate.demo.mailserver import Account

Json = dict[str, Any]


class ApiError(RuntimeError):
    """The gateway refused: `status`, and the problem's `slug` and text (RFC 9457)."""

    def __init__(self, method: str, path: str, response: httpx.Response) -> None:
        is_json = "json" in response.headers.get("content-type", "")
        problem: Json = response.json() if is_json else {"detail": response.text[:300]}
        self.status = response.status_code
        self.slug = str(problem.get("type", "")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
        super().__init__(f"{method} {path}: {self.status} {self.slug} {problem.get('detail', '')}")


class Crm:
    """One HTTP connection pool with the CRM's token. Use it as an async context manager."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.requests = 0
        self._http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, *, body: Json | None = None, **query: Any) -> httpx.Response:
        self.requests += 1
        response = await self._http.request(method, path, json=body, params=query or None)
        if response.is_error:
            raise ApiError(method, path, response)
        return response

    async def _json(self, method: str, path: str, *, body: Json | None = None, **query: Any) -> Json:
        answer: Json = (await self._ask(method, path, body=body, **query)).json()
        return answer

    async def put_tenant(self, tenant: str, name: str) -> None:
        await self._ask("PUT", f"/v1/tenants/{tenant}", body={"name": name})

    async def set_plan(self, tenant: str, plan: str) -> Json:
        return await self._json("PUT", f"/v1/tenants/{tenant}/subscription", body={"plan": plan})

    async def connect(self, tenant: str, account: Account, *, port: int) -> str:
        """Connects the account's mailbox; returns its id."""
        imap = {
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "username": account.address,
            "auth": {"password": account.password},
        }
        body = {"address": account.address, "imap": imap}
        return str((await self._json("POST", f"/v1/tenants/{tenant}/mailboxes", body=body))["id"])

    async def mailbox(self, tenant: str, mailbox: str) -> Json:
        return await self._json("GET", f"/v1/tenants/{tenant}/mailboxes/{mailbox}")

    async def messages(self, tenant: str, **query: Any) -> AsyncIterator[Json]:
        """Every message of the list, newest first, page after page."""
        cursor = None
        while True:
            asked = {**query, "limit": 100, **({"cursor": cursor} if cursor else {})}
            page = await self._json("GET", f"/v1/tenants/{tenant}/messages", **asked)
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def first_message(self, tenant: str) -> Json | None:
        page = await self._json("GET", f"/v1/tenants/{tenant}/messages", limit=1)
        return page["items"][0] if page["items"] else None

    async def message(self, tenant: str, message: str) -> Json:
        return await self._json("GET", f"/v1/tenants/{tenant}/messages/{message}")

    async def raw(self, tenant: str, message: str) -> bytes:
        return (await self._ask("GET", f"/v1/tenants/{tenant}/messages/{message}/raw")).content

    async def pin(self, tenant: str, message: str, entity_type: str, entity_id: str) -> None:
        path = f"/v1/tenants/{tenant}/messages/{message}/pins/{entity_type}/{quote(entity_id, safe='')}"
        await self._ask("PUT", path, body={"note": "pinned by the demonstration"})

    async def purge(self, tenant: str) -> Json:
        """Starts the purge of one tenant; returns the run."""
        return await self._json("POST", "/v1/retention/runs", body={"tenant": tenant})

    async def run(self, run: str) -> Json:
        return await self._json("GET", f"/v1/retention/runs/{run}")

    async def runs(self, tenant: str) -> list[Json]:
        """The newest hundred purges of one tenant."""
        page = await self._json("GET", "/v1/retention/runs", tenant=tenant, limit=100)
        return list(page["items"])

    async def export_log(self, tenant: str, target: Path) -> None:
        """Writes the tenant's purge log as an archive of C2SP tiles with its signed checkpoint."""
        self.requests += 1
        query = {"tenant": tenant, "format": "tlog"}
        async with self._http.stream("GET", "/v1/purge-log/export", params=query) as response:
            if response.is_error:
                await response.aread()
                raise ApiError("GET", "/v1/purge-log/export", response)
            with target.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
