"""What goes wrong at a server in memory, and on the line to it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """Change it at any time. Counters tell after how many more it happens, once; 0 means the next one.

    * `cut_after`: the line drops after that many more steps (a step is one call, one batch, one body, half a body, or
      the way back of a change's answer);
    * `cut_before`: the line drops when that many more changes came through, before the next one takes effect;
    * `lose_answer`: likewise, but the change takes effect: only its answer is lost. A change is one STORE, MOVE, COPY,
      EXPUNGE, APPEND, CREATE, RENAME or DELETE;
    * `move_only`: the next MOVE moves that many of its messages, then the line drops;
    * `refusals`: these commands (`MOVE`) are answered with NO and this response code (None: no code). `INUSE`,
      `UNAVAILABLE` and `LIMIT` ask for a pause;
    * `refuse`: folders that are answered with NO;
    * `unlisted`: folders that LIST leaves out;
    * `exists_lie`: what EXISTS claims too much or too little, per folder;
    * `withheld`: UIDs that the server never answers (a missing UID is no deletion);
    * `unreachable`, `reject_login`: connecting fails.
    """

    cut_after: int | None = None
    cut_before: int | None = None
    lose_answer: int | None = None
    move_only: int | None = None
    refusals: dict[str, str | None] = field(default_factory=dict)
    refuse: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    exists_lie: dict[str, int] = field(default_factory=dict)
    withheld: set[tuple[str, int]] = field(default_factory=set)
    unreachable: bool = False
    reject_login: bool = False
