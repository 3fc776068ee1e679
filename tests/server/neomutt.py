"""NeoMutt as a person's mail program: keys that are pressed in a terminal of its own, until it has ended."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

from tests.waiting import PATIENCE_S

_SCREEN = 1 << 16


class Neomutt:
    """One account in NeoMutt, which is opened for each thing that is done.

    It moves as most mail programs once did: COPY, a mark, and EXPUNGE when the folder is synchronized.
    """

    def __init__(self, port: int, name: str, password: str, folder: Path) -> None:
        self._home = folder / "neomutt"
        self._home.mkdir()
        self._rc = self._home / "rc"
        self._rc.write_text(f"""
set imap_user = "{name}"
set imap_pass = "{password}"
set imap_authenticators = "login"
set folder = "imap://127.0.0.1:{port}/"
set spool_file = "+INBOX"
set record = ""
set postponed = ""
unset ssl_starttls
unset ssl_force_tls
unset move
unset confirm_append
unset mark_old
unset wait_key
set delete = yes
set quit = yes
set sleep_time = 0
set net_inc = 0
set read_inc = 0
set write_inc = 0
set imap_passive = yes
""")

    def move(self, subject: str, source: str, target: str) -> None:
        """The messages of this subject, from one folder into another."""
        self._press(source, f"{_tag(subject)}<tag-prefix-cond><save-message>={target}<enter><end-cond>")

    def delete(self, subject: str, folder: str) -> None:
        """The messages of this subject, for ever."""
        self._press(folder, f"<delete-pattern>~s '^{subject}$'<enter>")

    def mark(self, subject: str, folder: str) -> None:
        """Important, or not any more."""
        self._press(folder, f"{_tag(subject)}<tag-prefix-cond><flag-message><end-cond>")

    def _press(self, folder: str, keys: str) -> None:
        """Open the folder, press the keys, synchronize and quit."""
        near, far = pty.openpty()
        program = subprocess.Popen(
            ["neomutt", "-n", "-F", str(self._rc), "-f", f"+{folder}", "-e", f'push "{keys}<sync-mailbox><quit>"'],
            stdin=far,
            stdout=far,
            stderr=far,
            env={**os.environ, "HOME": str(self._home), "TERM": "xterm", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        os.close(far)
        screen = bytearray()
        try:
            deadline = time.monotonic() + PATIENCE_S
            while program.poll() is None:
                assert time.monotonic() < deadline, bytes(screen[-4_000:])
                _read(near, screen)
        finally:
            program.kill()
            program.wait()
            os.close(near)
        assert program.returncode == 0, bytes(screen[-4_000:])


def _tag(subject: str) -> str:
    return f"<tag-pattern>~s '^{subject}$'<enter>"


def _read(terminal: int, screen: bytearray) -> None:
    """What it shows, so that it never waits for somebody who looks."""
    if select.select([terminal], [], [], 0.05)[0]:
        try:
            screen += os.read(terminal, _SCREEN)
        except OSError:  # EIO: it has closed its side
            time.sleep(0.005)
        del screen[:-_SCREEN]
