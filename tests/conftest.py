"""What every test gets: uvloop, deterministic properties, no way out to the network, and the real servers as fixtures.

* Temporary files lie in memory where that has room.
* Property tests are deterministic (`HYPOTHESIS_PROFILE=soak` searches at random and much longer).
* Nothing may connect beyond loopback; a test whose code tries fails, even if the code swallows the error.
* The garbage collector leaves alone what was loaded, as in a process that serves.
* Tests that need a server stand last; of several workers, one begins with them. A missing server skips them with its
  reason; with `CI=true` it fails them.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import functools
import gc
import inspect
import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop
from _pytest.faulthandler import fault_handler_stderr_fd_key

from mailgate.events.types import TYPES
from mailgate.store.transaction import Transaction
from tests.patience import PatientLoop
from tests.servers import missing_go

pytest_plugins = [
    "tests.contract.pymap_server",
    "tests.courier",
    "tests.cyrus",
    "tests.dovecot",
    "tests.postgres",
    "tests.statements",
]

MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has names of its own, as in /tmp
MEMORY_WANTED = 2 << 30


def _temporary_files_in_memory() -> None:
    """Stores and databases sync to disk with every commit, and a disk that others use lets each wait. Workers of one
    run inherit the choice; TMPDIR is the developer's own. Go's programs must be able to run from there.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    about = os.statvfs(MEMORY)
    if about.f_bavail * about.f_frsize >= MEMORY_WANTED and not about.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_temporary_files_in_memory()

hypothesis.settings.register_profile(
    "test",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # it reads the clock, and a machine may stand still
)
hypothesis.settings.register_profile(
    "soak",
    deadline=None,
    max_examples=5_000,
    stateful_step_count=200,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

_refused: list[str] = []


def _check_address(host: object) -> None:
    """Records and refuses any address that is not loopback. Names other than `localhost` would need a resolver:
    refused.
    """
    if host is None or host in ("", b"", "localhost", b"localhost"):
        return
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    try:
        if ipaddress.ip_address(text.partition("%")[0]).is_loopback:
            return
    except ValueError:
        pass
    _refused.append(text)
    raise OSError(errno.ENETUNREACH, f"a test may not leave this machine: {text}")


class Loopback:
    """What a loop of the tests has before its own: connections and look-ups stay on this machine."""

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **kwargs: Any) -> Any:
        if kwargs.get("sock") is None:
            _check_address(host)
        return await super().create_connection(protocol_factory, host, port, **kwargs)  # type: ignore[misc]

    async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
        _check_address(host)
        return await super().getaddrinfo(host, port, **kwargs)  # type: ignore[misc]

    async def sock_connect(self, sock: socket.socket, address: Any) -> Any:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _check_address(address[0])
        return await super().sock_connect(sock, address)  # type: ignore[misc]


class LoopbackLoop(Loopback, uvloop.Loop):
    """The event loop of async tests: uvloop."""


class PatientLoopbackLoop(Loopback, PatientLoop):
    """That of tests about time."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"patient": PatientLoopbackLoop} if item.get_closest_marker("patient") else {"uvloop": LoopbackLoop}


@pytest.fixture(autouse=True, scope="session")
def _blocking_sockets_stay_here() -> Iterator[None]:
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check_address(address[0])
        real(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield


@pytest.fixture(autouse=True)
def _stays_on_loopback() -> Iterator[None]:
    _refused.clear()
    yield
    tried, _refused[:] = list(_refused), []
    if tried:
        pytest.fail(f"tried to reach beyond loopback: {', '.join(tried)}", pytrace=False)


@pytest.fixture(autouse=True)
def _events_are_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """What any test makes the gateway tell stands in `mailgate.events.types`, from which its reference is made."""
    real = Transaction.emit

    def emit(self: Transaction, tenant_id: str, type_: str, **more: Any) -> None:
        unknown = set(more.get("payload") or ()) - set(TYPES[type_].data)
        assert not unknown, f"{type_}: add {sorted(unknown)} to mailgate/events/types.py"
        real(self, tenant_id, type_, **more)

    monkeypatch.setattr(Transaction, "emit", emit)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own MAILGATE_… variables, token included, must not reach a test."""
    for name in [name for name in os.environ if name.startswith("MAILGATE_")]:
        monkeypatch.delenv(name)


ASYNC_LIMIT_S = 600
"""Several times as long as the longest test takes on a busy machine: it ends what hangs, and says nothing of how long
anything may take. pytest-timeout's signal does not wake uvloop, so an async test has its own limit; pytest-timeout's
thread is the last resort.
"""


TEARDOWN_LIMIT_S = 600


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A teardown that never ends, ends the run, with the stacks of all threads.

    Closing uvloop's loop over a line that a failed test left open may wait for ever, and holds the interpreter's lock
    meanwhile, so that no thread of Python, pytest-timeout's neither, can end it.
    """
    stderr = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(TEARDOWN_LIMIT_S, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        marker = item.get_closest_marker("timeout")
        limit = 0.8 * float(marker.args[0]) if marker and marker.args else ASYNC_LIMIT_S
        item.obj = _limited(item.obj, limit)


def _limited(
    test: Callable[..., Coroutine[Any, Any, None]], limit_s: float
) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        timer, waits = asyncio.timeout(limit_s), list[str]()
        loop = asyncio.get_running_loop()
        # Before the timer's own turn, which cancels what then tells nothing any more.
        look = loop.call_later(limit_s, lambda: waits.extend(_awaited(task) for task in asyncio.all_tasks(loop)))
        try:
            async with timer:
                await test(*args, **kwargs)
        except TimeoutError:
            if timer.expired():
                pytest.fail("\n".join((f"still running after {limit_s:g} s; what its tasks wait for:", *waits)))
            raise
        finally:
            look.cancel()

    return run


def _awaited(task: asyncio.Task[Any]) -> str:
    """The lines in which a task waits, the outermost first."""
    lines, inner = [task.get_name()], task.get_coro()
    while inspect.iscoroutine(inner) and inner.cr_frame is not None:
        lines.append(f"    {inner.cr_code.co_filename}:{inner.cr_frame.f_lineno} {inner.cr_code.co_qualname}")
        inner = inner.cr_await
    return "\n".join(lines)


def _last(item: pytest.Item) -> int:
    """Fast tests first, then those that need servers, then those that kill processes."""
    marks = {mark.name for mark in item.iter_markers()}
    return 2 if "crash" in marks else 1 if marks & {"server", "postgresql", "go"} else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_last)


def pytest_collection_finish() -> None:
    """Thousands of tests and all modules stay to the end: a collector that looks at them again and again takes a tenth
    of the time of all tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("go"):
        missing_go()
