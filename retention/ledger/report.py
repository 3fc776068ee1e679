"""What an examination of a log found: a verdict with its exit code, one line that says it, and the details.

    0 ok           everything that was examined holds
    1 unreadable   the question could not be asked: wrong usage, no such directory, no permission
    3 invalid      hashes, signatures, names or records are not what they must be: somebody changed something
    4 diverged     two states of one log contradict each other: history was rewritten
    5 rule broken  the log is intact and records a purge that the rules forbid, or a run whose counts do not balance
    6 incomplete   something is missing or cut short; nothing that is there is wrong

Where several apply, the first of 3, 4, 5, 6 stands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

MAX_KEPT = 20


class Verdict(IntEnum):
    """The outcome; its value is the exit code of a command."""

    OK = 0
    UNREADABLE = 1
    INVALID = 3
    DIVERGED = 4
    RULE_BROKEN = 5
    INCOMPLETE = 6

    @property
    def word(self) -> str:
        """The word for people and for JSON."""
        return self.name.lower().replace("_", " ")


@dataclass(slots=True)
class Findings:
    """Problems as they are found: all are counted, the first `MAX_KEPT` of each kind are kept."""

    counts: dict[Verdict, int] = field(default_factory=dict)
    problems: list[tuple[Verdict, str]] = field(default_factory=list)

    def add(self, verdict: Verdict, problem: str) -> None:
        """Note a problem, in one sentence without a full stop."""
        count = self.counts[verdict] = self.counts.get(verdict, 0) + 1
        if count <= MAX_KEPT:
            self.problems.append((verdict, problem))

    def extend(self, other: Findings) -> None:
        """Take over what another examination found."""
        for verdict, count in other.counts.items():
            kept = self.counts.get(verdict, 0)
            room = max(0, MAX_KEPT - kept)
            self.problems += [p for p in other.problems if p[0] is verdict][:room]
            self.counts[verdict] = kept + count

    @property
    def verdict(self) -> Verdict:
        """The verdict over all of them."""
        return min(self.counts, default=Verdict.OK)


def shown(fact: Any) -> str:
    """A fact for people: `a 1, b 2` for counts by name, JSON for what is deeper."""
    if isinstance(fact, dict):
        if all(isinstance(value, int | str) for value in fact.values()):
            return ", ".join(f"{name} {value}" for name, value in fact.items()) or "none"
        return json.dumps(fact, ensure_ascii=False, sort_keys=True)
    return str(fact)


def counted(count: int, what: str) -> str:
    """So many of it, in words: one run, two runs."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of an examination. `facts` are JSON values by name."""

    subject: str
    findings: Findings
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The verdict; its value is the exit code."""
        return self.findings.verdict

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if self.verdict is Verdict.OK:
            return f"ok: {self.subject}"
        first = next((text for verdict, text in self.findings.problems if verdict is self.verdict), "")
        return f"{self.verdict.word}: {first}"

    def lines(self) -> list[str]:
        """The whole report for a terminal: the verdict, the facts, the problems. Nothing in it can steer a terminal."""
        lines = [self.headline]
        for name, value in self.facts.items():
            lines.append(f"  {name.replace('_', ' ')}: {shown(value)}")
        if self.findings.problems and len(self.findings.problems) + len(self.findings.counts) > 2:
            lines += [f"  - {verdict.word}: {text}" for verdict, text in self.findings.problems]
        hidden = sum(self.findings.counts.values()) - len(self.findings.problems)
        if hidden:
            lines.append(f"  and {hidden} more")
        return ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines]

    def to_json(self) -> str:
        """The report as one JSON object in one line."""
        return json.dumps(
            {
                "verdict": self.verdict.word,
                "exit_code": int(self.verdict),
                "headline": self.headline,
                **self.facts,
                "problems": [{"verdict": v.word, "problem": text} for v, text in self.findings.problems],
                "problem_counts": {v.word: count for v, count in sorted(self.findings.counts.items())},
            }
        )
