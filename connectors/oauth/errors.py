"""What goes wrong with tokens; all are `connectors.errors`, so that whoever connects need not know of tokens.

ConnectorError
├── AuthError
│   └── ConsentLapsedError    the person's consent is over: only a new one helps        (mailbox, never)
└── NetworkError
    └── TokenEndpointError    no tokens now: the line, 5xx, a pause, an odd answer, or  (mailbox, later)
                              our registration is refused (`ours`), which its operator mends
"""

from __future__ import annotations

from connectors.errors import AuthError, NetworkError


class ConsentLapsedError(AuthError):
    """The refresh token, or the code, is good for nothing any more (RFC 6749 §5.2 invalid_grant)."""


class TokenEndpointError(NetworkError):
    """There are no tokens now. `ours`: the authorisation server does not take our client id, secret or scopes."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, ours: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.ours = ours
