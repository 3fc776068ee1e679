"""How many requests a token may make: a bucket for each, that fills again as time goes by.

    R1  In any time `s` a token gets at most `burst` + `s` × `per_minute` / 60 requests through.
    R2  Whoever asked for less than that is never refused.
    R3  What is remembered is one number for each token that asked within the time in which a bucket fills: one that is
        full again is forgotten. Only tokens that are valid have one.

The number is when the bucket will be full again; the rest follows from it (the generic cell rate algorithm). It lives
in the process: of several behind one address each counts for itself. The header fields are those of
draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy` says the rule, `RateLimit` what is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
"""In nanoseconds: sums of whole numbers stay exact."""
_SWEEP_AFTER = 1_024
"""So many tokens are remembered before full buckets are looked for; afterwards as many as twice those that were not."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether a request may pass; how many more may right now, and in how many whole seconds all of them may again.

    `retry_after_s`: whole seconds until the next one may, 0 when it may now.
    """

    passes: bool
    remaining: int
    reset_s: int
    retry_after_s: int


class Rates:
    """The buckets of a process. `per_minute` 0: nobody is limited."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._each = _MINUTE // per_minute if per_minute else 0
        self._burst = burst
        self._full_at: dict[str, int] = {}
        self._sweep_at = _SWEEP_AFTER
        window_s = max(1, _whole_s(burst * self._each))
        self.policy = f'"token";q={burst};w={window_s}'
        """The value of `RateLimit-Policy`."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, token_id: str, now_s: float) -> Taken | None:
        """One request of this token, at `now_s` on a clock that nobody sets. None: nobody is limited."""
        if not self._each:
            return None
        now, most = int(now_s * _SECOND), self._burst * self._each
        full_at = max(now, self._full_at.get(token_id, now))
        passes = full_at - now + self._each <= most
        if passes:
            full_at += self._each
            self._full_at[token_id] = full_at
            if len(self._full_at) > self._sweep_at:
                self._sweep(now)
        missing = full_at - now
        remaining = (most - missing) // self._each
        wait = 0 if remaining else missing + self._each - most
        return Taken(passes, remaining, _whole_s(missing), _whole_s(wait))

    def _sweep(self, now: int) -> None:
        """Forget those that are full again. What it costs is spread over the requests that made it necessary."""
        self._full_at = {token_id: full_at for token_id, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = max(_SWEEP_AFTER, 2 * len(self._full_at))


def _whole_s(nanoseconds: int) -> int:
    """Seconds, rounded up: who waits for so long has waited long enough."""
    return -(-nanoseconds // _SECOND)
