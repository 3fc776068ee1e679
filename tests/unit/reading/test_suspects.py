"""What ends the process that reads it is known afterwards, and is read by another process first; nothing else is held
against a message.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.reading import suspects as module
from mailgate.reading.suspects import KEPT, MOST_DEATHS, PIECE, SLOTS, DeadlyError, Suspects, ends_a_process

RAW = b"Subject: one\r\n\r\ntext\r\n"

DYING = """
import os, signal, sys
from pathlib import Path
from mailgate.reading.suspects import Suspects
suspects = Suspects(Path(sys.argv[1]))
suspects.read("harmless", b"", lambda: None)
suspects.read(sys.argv[2], b"", lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


DYING_BESIDE = """
import os, signal, sys
from pathlib import Path
from mailgate.reading.suspects import Suspects
suspects = Suspects(Path(sys.argv[1]))
suspects.read_beside([b"harmless", b"other"], lambda: None)
suspects.read_beside([name.encode() for name in sys.argv[2:]], lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def dies_beside(folder: Path, *names: str) -> None:
    """A process is killed while another reads these for it."""
    done = subprocess.run([sys.executable, "-c", DYING_BESIDE, str(folder), *names], check=False)
    assert done.returncode == -signal.SIGKILL


def dies(folder: Path, name: str) -> None:
    """A process is killed while it reads this message."""
    done = subprocess.run([sys.executable, "-c", DYING, str(folder), name], check=False)
    assert done.returncode == -signal.SIGKILL


class Trials:
    """Stands for trials: how they end, and how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self.deadly = False

    def __call__(self, raw: bytes, size: int | None = None) -> bool:
        self.count += 1
        return self.deadly


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    trials = Trials()
    monkeypatch.setattr(module, "ends_a_process", trials)
    return trials


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Suspects]:
    suspects = Suspects(folder)
    yield suspects
    suspects.close()


def read(suspects: Suspects, name: str = "one") -> str:
    return suspects.read(name, RAW, lambda: "read")


def test_who_reads_unharmed_leaves_nothing(tmp_path: Path, trials: Trials) -> None:
    with opened(tmp_path / "new" / "folder") as suspects:
        assert read(suspects) == "read"
        with pytest.raises(ValueError, match="broken"):
            suspects.read("two", RAW, lambda: int("broken"))
    assert not list((tmp_path / "new" / "folder").iterdir())
    with opened(tmp_path) as suspects:
        read(suspects)
        read(suspects, "two")
    assert not trials.count


def test_what_was_being_read_at_the_end_is_tried_once(tmp_path: Path, trials: Trials) -> None:
    dies(tmp_path, "one")
    with opened(tmp_path) as suspects:
        assert read(suspects, "two") == "read"
        assert read(suspects, "harmless") == "read"
        assert not trials.count
        assert read(suspects) == "read"
        assert trials.count == 1
        read(suspects)
    assert trials.count == 1, "it is known to be harmless"
    assert not list(tmp_path.iterdir())


def test_what_ends_the_trial_is_not_read_by_this_process_or_the_next(tmp_path: Path, trials: Trials) -> None:
    trials.deadly = True
    dies(tmp_path, "one")
    for _ in range(2):
        with opened(tmp_path) as suspects, pytest.raises(DeadlyError):
            suspects.read("one", RAW, lambda: pytest.fail("it is read"))
    assert trials.count == 1


def test_what_many_processes_ended_over_is_not_even_tried(tmp_path: Path, trials: Trials) -> None:
    for deaths in range(MOST_DEATHS):
        with opened(tmp_path) as suspects:
            assert suspects._deaths.get(module.blake2b(b"one", digest_size=16).digest(), 0) == deaths
        dies(tmp_path, "one")
    with opened(tmp_path) as suspects:
        with pytest.raises(DeadlyError):
            read(suspects)
        assert not trials.count
        assert suspects.read("one", RAW, lambda: "read", again=True) == "read"
        assert trials.count == 1, "somebody asked for it"
        assert read(suspects) == "read"
    assert trials.count == 1


def test_what_could_not_be_read_is_tried_first(tmp_path: Path, trials: Trials) -> None:
    with opened(tmp_path) as suspects:
        assert suspects.read("one", RAW, lambda: "read", again=True) == "read"
        trials.deadly = True
        with pytest.raises(DeadlyError):
            suspects.read("one", RAW, lambda: pytest.fail("it is read"), again=True)
    assert trials.count == 2


def test_marks_of_a_process_that_lives_are_its_own(tmp_path: Path, trials: Trials) -> None:
    with opened(tmp_path) as one:

        def meanwhile() -> str:
            with opened(tmp_path) as two:
                return read(two)

        assert one.read("one", RAW, meanwhile) == "read"
    assert not trials.count


def test_the_newest_suspects_are_remembered(tmp_path: Path, trials: Trials) -> None:
    suspects = Suspects(tmp_path)
    for n in range(KEPT + 1):
        suspects._note(b"%016d" % n, 1)
    assert list(suspects._deaths) == [b"%016d" % n for n in range(1, KEPT + 1)]
    suspects.close()
    with opened(tmp_path) as other:
        assert other._deaths == suspects._deaths


def test_more_are_read_at_once_than_are_marked(tmp_path: Path) -> None:
    with opened(tmp_path) as suspects:

        def nested(left: int) -> int:
            return 1 + suspects.read(f"{left}", RAW, lambda: nested(left - 1)) if left else 0

        assert nested(SLOTS + 2) == SLOTS + 2
        assert sorted(suspects._free) == list(range(SLOTS))


def test_all_of_a_piece_is_suspected_and_none_is_counted(tmp_path: Path, trials: Trials) -> None:
    names = [f"{n}" for n in range(PIECE)]
    for _ in range(MOST_DEATHS + 1):
        dies_beside(tmp_path, *names)
    with opened(tmp_path) as suspects:
        assert not suspects.suspected([b"harmless", b"other"])
        assert all(suspects.suspected([b"other", name.encode()]) for name in names)
        assert not any(suspects.deadly(name.encode()) for name in names)
        suspects.clear([name.encode() for name in names[1:]])
        assert not suspects.suspected([name.encode() for name in names[1:]])
        assert read(suspects, "0") == "read"
        assert trials.count == 1
    assert not list(tmp_path.iterdir())


def test_one_that_is_read_beside_alone_is_counted(tmp_path: Path, trials: Trials) -> None:
    for _ in range(MOST_DEATHS):
        with opened(tmp_path) as suspects:
            assert not suspects.deadly(b"one")
        dies_beside(tmp_path, "one")
    with opened(tmp_path) as suspects:
        assert suspects.deadly(b"one")
        assert not suspects.deadly(b"two")
        with pytest.raises(DeadlyError):
            read(suspects)


def test_nothing_is_marked_beside_without_a_folder() -> None:
    assert Suspects().read_beside([b"one"], lambda: "read") == "read"


@pytest.mark.parametrize("hinders", ["no folder", "a full disk", "a stranger's file"])
def test_all_goes_on_without_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hinders: str) -> None:
    folder = tmp_path / "marks"
    if hinders == "no folder":
        folder.write_text("a file")
    elif hinders == "a stranger's file":
        folder.mkdir()
        (folder / "x.marks").write_bytes(b"\xff" * 10)
    else:

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
    with opened(folder) as suspects:
        assert read(suspects) == "read"
        suspects._note(b"x" * 16, 1)


def test_nothing_is_tried_where_nothing_is_marked(trials: Trials) -> None:
    assert Suspects().read("one", RAW, lambda: "read", again=True) == "read"
    assert not trials.count


# Trials in earnest.

HOOK = """
import ctypes, os, resource, signal, sys, time
from pathlib import Path
import fast_mail_parser
folder, parse, limit = Path(__file__).parent, fast_mail_parser.parse_email_tree, resource.setrlimit
def parse_email_tree(raw, **how):
    text = bytes(raw)
    if b"fault" in text:
        ctypes.string_at(0)
    while b"endless" in text:
        pass
    if b"greedy" in text:
        bytearray(1 << 40)
    if b"stopped" in text:
        os.kill(os.getpid(), signal.SIGTERM)
    if b"killed" in text and (b"always" in text or not (folder / "killed").exists()):
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if b"broken" in text:
        raise RecursionError
    return parse(raw, **how)
fast_mail_parser.parse_email_tree = parse_email_tree
resource.setrlimit = lambda what, how: limit(what, (2, 3) if what == resource.RLIMIT_CPU else how)
"""


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sitecustomize.py"
    path.write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return path


@pytest.mark.parametrize("what", ["fault", "endless", "greedy", "killed always"])
def test_what_ends_a_process(hook: Path, what: str) -> None:
    assert ends_a_process(RAW + what.encode())


@pytest.mark.parametrize("what", ["", "broken", "stopped", "killed once", "x" * 3_000_000])
def test_what_ends_no_process(hook: Path, what: str) -> None:
    assert not ends_a_process(RAW + what.encode(), 5_000_000)


@pytest.mark.parametrize("hinders", ["not started", "not begun", "stands still"])
def test_nothing_is_held_against_a_message_that_was_not_tried(
    hook: Path, monkeypatch: pytest.MonkeyPatch, hinders: str
) -> None:
    if hinders == "not started":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    elif hinders == "not begun":
        hook.write_text("raise SystemExit(1)")
    else:
        monkeypatch.setattr(module, "PATIENCE_S", 0.1)
        hook.write_text("import time; time.sleep(60)")
    assert not ends_a_process(RAW + b"fault")


def test_processes_start_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(tmp_path, "deadly")
    refused = []

    def locked(path: Path, flags: int = 0) -> int:
        another = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused.append(path)
        finally:
            os.close(another)
        return lock(path, flags)

    lock = module._locked
    monkeypatch.setattr(module, "_locked", locked)
    with opened(tmp_path):
        assert len(refused) == 2  # its own file, and the one of the process that ended
        with opened(tmp_path):
            assert len(refused) == 4


def test_what_ended_a_process_is_known_on_a_full_disk_and_kept(
    tmp_path: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(tmp_path, "deadly")
    ended = set(tmp_path.glob("*.marks"))
    trials.deadly = True

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with opened(tmp_path) as suspects, pytest.raises(DeadlyError):
            suspects.read("deadly", RAW, lambda: None)
    assert trials.count == 1
    assert ended <= set(tmp_path.glob("*.marks"))
