"""Mail servers that Debian does not let stand beside others, run from the packages that `.ci/setup-servers` unpacked.

Each instance sees a root of its own: the machine's /usr and /etc with the unpacked ones laid over, an empty /run, and
the test's folder under its usual name. That takes a mount namespace, so root's rights; nothing of it is seen outside.
A process namespace around it makes sure that all of a server's processes end with it, however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.certificates import Certificates, make_certificates
from tests.servers import Server, free_port, leave_out, listening

SERVERS = Path(__file__).parents[1] / ".servers"

_ENTER = """
set -e
root=$1 folder=$2 shared=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs $folder/root
cd $folder/root
mkdir dev proc usr etc .etc .work run tmp
chmod 1777 tmp
for name in bin sbin lib lib64; do [ ! -L /$name ] || ln -s "$(readlink /$name)" $name; done
mount -t overlay overlay -o "lowerdir=$root/usr:/usr" usr
mount -t overlay overlay -o "lowerdir=$root/etc:/etc,upperdir=$PWD/.etc,workdir=$PWD/.work" etc
cp -a $root/var var
ln -sfn ../run var/run
for device in full null random urandom zero; do touch dev/$device; mount --bind /dev/$device dev/$device; done
ln -s $folder/syslog dev/log
mount -t proc proc proc
mkdir -p .$folder
mount --bind $folder .$folder
[ -z "$shared" ] || { mkdir -p .$shared && mount --bind $shared .$shared; }
# This shell stays: it is the namespace's first process, whose end ends all others. The server has a process group of
# its own: Cyrus, when it ends, signals all of its group, and that would be all servers of the tests.
setsid chroot . "$@" &
trap "kill $!" TERM
wait $! || wait $! || true
"""


class Unpacked:
    """One running server on 127.0.0.1:`port`. A subclass says what it is and writes its configuration."""

    name: str
    """Of the folder in `.servers`."""
    program: str
    """What must be in it, below /usr."""
    shared: Path | None = None
    """A folder that it sees beside its own, under the same name."""

    def __init__(self, folder: Path) -> None:
        root = SERVERS / self.name
        if not (root / "usr" / self.program).exists() or os.getuid() != 0:
            leave_out(self.name.capitalize(), None, instead="run .ci/setup-servers and the tests as root")
        self.folder, self._root = folder, root
        folder.chmod(0o711)
        (folder / "root").mkdir()
        (folder / "enter.sh").write_text(_ENTER)
        self.port = free_port()
        self._names = itertools.count(1)
        self.certificates: Certificates = make_certificates(folder)
        self._log = _Syslog(folder)
        try:
            self.prepare()
            self.start()
        except BaseException:
            self._log.close()
            raise

    def prepare(self) -> None:
        """Makes what the server finds at its first start."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What to run within the root, with `port` where to listen. Must stay in the foreground."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts it, on a new port when another process took the old one before the first start."""
        for attempt in range(3):
            enter = ["sh", f"{self.folder}/enter.sh", str(self._root), str(self.folder), str(self.shared or "")]
            namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--"]
            # unshare is deaf to anything milder.
            output = self.folder / "output.log"
            self._server = Server([*namespaces, *enter, *self.command()], output, stop_signal=signal.SIGKILL)
            try:
                self._server.wait_until(lambda: listening(self.port))
            except RuntimeError as error:
                if attempt == 2:
                    raise RuntimeError(f"{error}\n{self.log()}") from error
                self.port = free_port()
            else:
                return

    def account(self) -> tuple[str, str]:
        """A new user's name and password."""
        raise NotImplementedError

    def ssl_context(self) -> ssl.SSLContext:
        """A client's context that trusts this server."""
        return ssl.create_default_context(cafile=str(self.certificates.ca))

    def run(self, *command: str, text: str = "") -> str:
        """Runs a command of the server's own tools inside its root, `text` as its input; returns what it printed."""
        inside = [
            "nsenter",
            "--target",
            str(self._first),
            "--mount",
            "--root",
            "--",
            "chroot",
            f"{self.folder}/root",
            *command,
        ]
        done = subprocess.run(inside, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    @property
    def _first(self) -> int:
        """The first process of the namespace, as it is called outside. Raises ProcessLookupError when all is over."""
        if self._server.process.poll() is not None:
            raise ProcessLookupError  # its number may be somebody else's by now
        pid = self._server.pid
        try:
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        except (OSError, ValueError):
            raise ProcessLookupError from None

    def stop(self) -> None:
        """Ends it in order."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.process.wait(10)
        self.kill()

    def kill(self) -> None:
        """Ends it as a power cut would; returns when none of its processes is left."""
        try:
            first = os.pidfd_open(self._first)
        except ProcessLookupError:
            self._server.kill()
            return
        try:
            self._server.kill()
            select.select([first], [], [], 10)  # its end is the end of all others
        finally:
            os.close(first)

    def close(self) -> None:
        """Ends it for good."""
        self.kill()
        self._log.close()

    def log(self) -> str:
        """What the server wrote: its output and its syslog."""
        return self._server.tail() + "\n" + "\n".join(self._log.lines[-50:])

    @classmethod
    def fixture(cls) -> Iterator[Self]:
        """For fixtures: a server that is gone, with its files, when the fixture ends."""
        folder = Path(tempfile.mkdtemp(prefix=f"mailgate-{cls.name}-"))
        try:
            server = cls(folder)
            try:
                yield server
            finally:
                server.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Syslog:
    """A listener on `folder/syslog`, which the server takes for the machine's /dev/log."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "syslog"))
        (folder / "syslog").chmod(0o666)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(65_536):
            self.lines.append(data.decode(errors="replace"))
            del self.lines[:-1_000]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread with an empty read
        self._thread.join(5)
        self._socket.close()
