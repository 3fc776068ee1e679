"""The purge log at size: leaves built and appended, a log exported, verified, replayed.

    python -m tests.bench.bench_ledger [--leaves N]

Goals: a leaf built and appended costs a small part of a purge (10 000 purges/s in all), 1 000 000 leaves verify in less
than 15 s, in memory that does not grow with them. Replay keeps a set of the items purged; its memory is shown, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retention.ledger import leaves
from retention.ledger.checkpoint import Checkpoint
from retention.ledger.directory import LogDirectory
from retention.ledger.export import export_directory
from retention.ledger.note import Signer
from retention.ledger.purge_template import ItemPurgeTemplate
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.ledger.tree import Frontier, leaf_hash
from retention.ledger.verify import verify_directory
from tests.ledger_samples import DAY, DOCUMENT, NOW, ORIGIN, common, purge_fields, ulid

SIGNER = Signer(ORIGIN, bytes(range(32)))
RUN = ulid(9)


def log(count: int) -> Iterator[bytes]:
    """A log of `count` leaves (at least 4) that keeps the rules, nearly all of them purges."""
    yield leaves.policy_set(common(0), document=DOCUMENT, effective_at=NOW - 90 * DAY)
    yield leaves.plan_effective(
        common(1), plan="standard", days=60, effective_at=NOW - 90 * DAY, cause="set", event_ref="e"
    )
    yield leaves.run_open(common(2, run=RUN), now=NOW, trigger="schedule")
    fields = purge_fields(7)
    fixed = {name: fields.pop(name) for name in ("plan", "days", "reason", "method")}
    template = ItemPurgeTemplate(common(0, run=RUN), **fixed)
    for number in range(3, count - 1):
        yield template.leaf(ulid(number), **{**fields, "item_ref": f"item{number:010d}"})
    yield leaves.run_close(common(count, run=RUN), candidates=count - 4, purged=count - 4, kept={}, failed=0, bytes_=0)


def measured(name: str, count: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of some work on `count` leaves; prints a line."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(f"{name:<34} {seconds:8.2f} s  {count / seconds:12,.0f} leaves/s")
    return seconds, result


def peak(command: str, path: Path) -> int:
    """Peak memory in MiB of the stand-alone command on a log, in one process."""
    # VmHWM begins anew at exec; ru_maxrss would count this process as well.
    program = (
        "import sys; from pathlib import Path; from retention.ledger.__main__ import main; code = main(sys.argv[1:])\n"
        "line = next(x for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM'))\n"
        "print(line.split()[1], file=sys.stderr); sys.exit(code)"
    )
    arguments = [command, str(path), "--vkey", SIGNER.verifier.vkey, "--jobs", "1"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return int(done.stderr) // 1024


def bench(count: int, folder: Path) -> dict[str, float]:
    """Measure on a log of `count` leaves; returns seconds by name."""
    fields = purge_fields(7)
    base = common(1, run=RUN)
    few = min(count, 50_000)
    seconds = {}
    measured("build item.purge, constructor", few, lambda: [leaves.item_purge(base, **fields) for _ in range(few)])

    def grow() -> Frontier:
        frontier = Frontier()
        for body in log(count):
            frontier.append(leaf_hash(body))
        return frontier

    seconds["grow"], frontier = measured("build by template, hash, append", count, grow)
    checkpoint = Checkpoint(ORIGIN, frontier.size, frontier.root()).sign([SIGNER])
    path = folder / "log"
    exporting = partial(export_directory, path, SIGNER.verifier, checkpoint, log(count))
    seconds["export"], _ = measured("build and export as tiles", count, exporting)
    for name, jobs in (("verify, one process", 1), ("verify, one process per core", None)):
        seconds[name], report = measured(name, count, partial(verify_directory, path, SIGNER.verifier, jobs))
        assert report.verdict is Verdict.OK, report.lines()
    directory = LogDirectory(path)
    seconds["replay"], report = measured("replay", count, lambda: replay_leaves(directory.leaves(count)))
    assert report.verdict is Verdict.OK, report.lines()
    for command in ("verify", "replay"):
        print(f"{'peak memory of ' + command:<34} {peak(command, path):8d} MiB")
    return seconds


@pytest.mark.bench
def test_ledger(tmp_path: Path) -> None:
    seconds = bench(1_000_000, tmp_path)
    assert seconds["verify, one process per core"] < 15
    assert seconds["grow"] < 50, "half of the time that 1 000 000 purges at 10 000/s may take"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench(options.leaves, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
