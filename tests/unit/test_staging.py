"""Files that are made to be sent: gone when they are sent, and when whoever made them is no more."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mailgate.usecases.staging import staged, sweep

_MAKE = """
import sys
from pathlib import Path
from mailgate.usecases.staging import staged
with staged(Path(sys.argv[1])) as folder:
    (folder / "log.tar").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_folder_lasts_as_long_as_its_block(tmp_path: Path) -> None:
    place = tmp_path / "exports"
    with staged(place) as folder:
        (folder / "log.tar").write_bytes(b"whole")
        assert sweep(place) == 0
        assert (folder / "log.tar").exists()
    assert list(place.iterdir()) == []
    with pytest.raises(ZeroDivisionError), staged(place):
        _ = 1 / 0
    assert list(place.iterdir()) == []
    assert sweep(tmp_path / "nowhere") == 0


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path) -> None:
    made = subprocess.Popen(
        [sys.executable, "-c", _MAKE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert made.stdin is not None
    assert made.stdout is not None
    folder = Path(made.stdout.readline().strip())
    assert sweep(tmp_path) == 0  # it lives
    assert (folder / "log.tar").exists()
    made.send_signal(signal.SIGKILL)
    made.wait()
    made.stdin.close()
    made.stdout.close()
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
