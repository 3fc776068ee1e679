"""A page that is asked for: by whom, in which language, for which tenant; and the ways to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from mailgate.admin import faults
from mailgate.admin.languages import Language
from mailgate.admin.rendering import render
from mailgate.admin.words import DONE
from mailgate.clock import Instant
from mailgate.errors import ConflictError, MailgateError, NotFoundError
from mailgate.store.tenants import Tenant
from mailgate.store.user_sessions import Session
from mailgate.store.users import Role, User
from mailgate.usecases.parts import Services
from mailgate.usecases.signing_in import From

Handler = Callable[["Page"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a page is, and who may see it. `role` None: who signed in; `public`: anybody; `erased`: of tenants that are
    gone as well; `whole`: about the whole installation, and so only for who is bound to no tenant.
    """

    method: str
    path: str
    handler: Handler
    role: Role | None = None
    public: bool = False
    erased: bool = False
    whole: bool = False


@dataclass(slots=True)
class Page:
    """One request. `secret` is the session's, or the visit's; `form` what was posted, already proven to be ours.
    `concerns`: the tenant that the page is about, where the path does not name it: for the access log.
    """

    request: Request
    parts: Services
    language: Language
    secret: str
    now: Instant
    session: Session | None = None
    user: User | None = None
    tenant: Tenant | None = None
    token: str = ""
    form: Mapping[str, str] = field(default_factory=dict)
    concerns: str | None = None

    @property
    def who(self) -> User:
        """The person; routes that are not public have one."""
        if self.user is None:
            raise ConflictError("nobody is signed in")
        return self.user

    @property
    def signed(self) -> Session:
        """The session; routes that are not public have one."""
        if self.session is None:
            raise ConflictError("nobody is signed in")
        return self.session

    @property
    def of(self) -> Tenant:
        """The tenant in the path, which the person reaches."""
        if self.tenant is None:
            raise NotFoundError("no tenant is named")
        return self.tenant

    @property
    def whence(self) -> From:
        """Where the request comes from."""
        client = self.request.client
        return From(None if client is None else client.host, self.request.headers.get("user-agent"))

    @property
    def here(self) -> str:
        """The address of the page that the person looks at, without what the last one did."""
        shown = self.request.headers.get("hx-current-url", "") if self.partial else ""
        url = (URL(shown) if shown else self.request.url).remove_query_params("done")
        return url.path + (f"?{url.query}" if url.query else "")

    @property
    def may_change(self) -> bool:
        """Whether the person may act, not only look."""
        return self.user is not None and self.user.role is Role.ADMIN

    @property
    def partial(self) -> bool:
        """Whether htmx asks for a part of a page."""
        return self.request.headers.get("hx-request") == "true"

    def query(self, name: str, most: int = 200) -> str:
        """A parameter of the address, without what nobody types."""
        return self.request.query_params.get(name, "")[:most].strip()

    def param(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def given(self, name: str) -> str:
        """A field of the form."""
        return self.form.get(name, "").strip()

    def text(self, text: str) -> str:
        """A marked text, translated."""
        return self.language.text(text)

    def why(self, error: MailgateError) -> str:
        """What is wrong, for the reader."""
        return faults.why(self.language, error)

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page, or a part of one."""
        done = DONE.get(self.request.query_params.get("done", ""))
        common = {
            "page": self,
            "user": self.user,
            "may_change": self.may_change,
            "token": self.token,
            "now": self.now,
            "done": None if done is None else self.text(done),
            "path": self.request.url.path,
        }
        return HTMLResponse(render(self.language.code, template, **(common | values)), status)

    def go(self, path: str, done: str | None = None) -> Response:
        """On to another page, which says what was done; a reload then repeats nothing (RFC 9110 §15.4.4)."""
        joint = "&" if "?" in path else "?"
        target = path if done is None else f"{path}{joint}done={done}"
        return RedirectResponse(target, 303)
