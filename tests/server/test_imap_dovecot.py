"""The source against a real server, where only a real one will do: TLS, logins, broken lines, what was said."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import uvloop

from connectors.errors import AuthError, NetworkError, TlsError
from connectors.imap.connection import connect_imap
from connectors.imap.settings import Limits, Timeouts
from connectors.imap.source import ImapSource
from connectors.model import Endpoint, PasswordAuth, QResync, Security
from connectors.port import FolderChange
from tests.contract.accounts import LOOPBACK
from tests.dovecot import Account, Dovecot
from tests.proxy import Faults, Proxy
from tests.soak import SOAK
from tests.wirelog import Bytes

pytestmark = pytest.mark.server

RECEIVED_AT = 1_700_000_000_000_000


async def connect(
    account: Account,
    *,
    port: int | None = None,
    security: Security = Security.NONE,
    context: ssl.SSLContext | None = None,
    password: str | None = None,
    host: str = "127.0.0.1",
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> ImapSource:
    async def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server = account.server
    return await connect_imap(
        Endpoint(host, port or (server.tls_port if security is Security.TLS else server.port), security),
        PasswordAuth(account.name, password or account.password),
        ssl_context=context,
        allow_networks=LOOPBACK,
        timeouts=timeouts,
        limits=limits,
        resolver=resolver,
    )


@contextlib.asynccontextmanager
async def opened(account: Account, **options: object) -> AsyncIterator[ImapSource]:
    source = await connect(account, **options)  # type: ignore[arg-type]
    try:
        yield source
    finally:
        await source.close()


def raw_message(number: int, size: int = 2_000) -> bytes:
    head = b"From: a@mail.example\r\nSubject: Number %d\r\n\r\n" % number
    return head + b"".join(b"%d line of body )\r\n" % n for n in range(size // 20))


async def bodies(source: ImapSource, uids: Sequence[int]) -> dict[int, bytes]:
    return {f.meta.uid: bytes(f.sink.data) async for f in source.fetch_bodies(uids, lambda _: Bytes())}


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
async def test_a_certificate_nobody_vouches_for(dovecot: Dovecot, security: Security) -> None:
    account = dovecot.account()
    with pytest.raises(TlsError, match="certificate was not accepted"):
        await connect(account, security=security, context=ssl.create_default_context())
    assert account.logins() == account.failed_logins() == 0


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
async def test_a_certificate_for_another_host(dovecot: Dovecot, security: Security) -> None:
    account = dovecot.account()
    with pytest.raises(TlsError, match="certificate was not accepted"):
        await connect(account, security=security, context=dovecot.ssl_context(), host="other.example")
    assert account.logins() == account.failed_logins() == 0


@pytest.mark.parametrize("security", list(Security))
async def test_a_wrong_password_is_said_once_and_never_shown(dovecot: Dovecot, security: Security) -> None:
    account = dovecot.account()
    context = dovecot.ssl_context() if security is not Security.NONE else None
    with pytest.raises(AuthError) as caught:
        await connect(account, security=security, context=context, password="hunter2")
    assert "hunter2" not in str(caught.value)
    assert account.logins() == 0


@pytest.mark.parametrize("password", ["Päss wörd 密碼", 'quo"te\\', "{5}", "x" * 500])
async def test_passwords_of_any_script(dovecot: Dovecot, password: str) -> None:
    async with opened(dovecot.account(password=password)) as source:
        await source.noop()


async def test_tls_spoken_to_the_plain_port(dovecot: Dovecot) -> None:
    with pytest.raises(TlsError):
        await connect(dovecot.account(), port=dovecot.port, security=Security.TLS, context=dovecot.ssl_context())


async def test_plain_spoken_to_the_tls_port(dovecot: Dovecot) -> None:
    with pytest.raises(NetworkError):
        await connect(dovecot.account(), port=dovecot.tls_port, timeouts=Timeouts(connect_s=0.5))


async def test_reading_everything_changes_nothing_at_the_server(dovecot_account: Account) -> None:
    dovecot_account.seed((raw_message(n), RECEIVED_AT) for n in range(20))
    dovecot_account.add(raw_message(50), folder="Größe/子", flags=["\\Flagged"])
    before = dovecot_account.originals(), dovecot_account.originals("Größe/子")
    async with opened(dovecot_account) as source:
        folders = [f.name for f in await source.list_folders() if f.selectable]
        await source.status(folders)
        for name in folders:
            selected = await source.open(name)
            uids = await source.list_uids()
            await bodies(source, uids)
            assert [h async for h in source.fetch_headers(uids)] or not uids
            async for _ in source.fetch_meta([range(1, 1 << 32)]):
                pass
            await source.idle(0.01)
            await source.open(name, QResync(selected.status.uidvalidity, selected.status.highestmodseq or 1))
    ours = [line for line in dovecot_account.commands() if line.split(" ")[0][0].isupper()]  # imaplib's tags are too
    words = {line.split(" ")[1] for line in ours if line != "DONE"}
    assert words <= {"ENABLE", "LIST", "STATUS", "EXAMINE", "UID", "IDLE", "NOOP", "LOGOUT"}
    fetches = [line for line in dovecot_account.commands() if " UID FETCH " in line and "BODY" in line]
    assert fetches
    assert all("BODY.PEEK[" in line for line in fetches)
    assert (dovecot_account.originals(), dovecot_account.originals("Größe/子")) == before


async def test_a_pass_over_an_unchanged_folder_costs_the_same_for_any_size(dovecot: Dovecot) -> None:
    costs = []
    for count in (10, 500):
        account = dovecot.account()
        account.seed((raw_message(n, 100), RECEIVED_AT) for n in range(count))
        async with opened(account) as source:
            first = (await source.open("INBOX")).status
            await source.open("Sent")
        async with Proxy("127.0.0.1", dovecot.port) as proxy, opened(account, port=proxy.port) as source:
            before = proxy.to_client
            selected = await source.open("INBOX", QResync(first.uidvalidity, first.highestmodseq or 0))
            assert (selected.resynced, selected.vanished, selected.changed) == (True, (), ())
            costs.append(proxy.to_client - before)
    assert max(costs) < 600
    assert max(costs) - min(costs) < 20  # the numbers have more digits


async def test_flags_of_a_folder_cost_few_bytes_a_message(plain_dovecot: Dovecot) -> None:
    account, count = plain_dovecot.account(), 1_000
    account.seed(((raw_message(n, 100), RECEIVED_AT) for n in range(count)), flags=["\\Seen"])
    # From the second session that may write on, no message is \\Recent.
    with account.imap() as client:
        client.select()
    async with Proxy("127.0.0.1", plain_dovecot.port) as proxy, opened(account, port=proxy.port) as source:
        await source.open("INBOX")
        before = proxy.to_client
        found = [c async for batch in source.fetch_flags([range(1, 1 << 32)]) for c in batch]
        cost = (proxy.to_client - before) / count
    assert len(found) == count
    assert cost <= 45


@pytest.mark.parametrize("split", [1, 7, 1_000])
async def test_a_line_that_delivers_in_splinters(dovecot: Dovecot, split: int) -> None:
    account = dovecot.account()
    raws = [raw_message(n) for n in range(5)]
    account.seed((raw, RECEIVED_AT) for raw in raws)
    proxy = Proxy("127.0.0.1", dovecot.port, Faults(split=split))
    async with proxy, opened(account, port=proxy.port) as source:
        await source.open("INBOX")
        assert await bodies(source, await source.list_uids()) == dict(enumerate(raws, start=1))


@pytest.mark.parametrize("security", [Security.NONE, Security.TLS, Security.STARTTLS])
async def test_a_line_cut_while_bodies_come(dovecot: Dovecot, security: Security) -> None:
    account = dovecot.account()
    raws = [raw_message(n, 20_000) for n in range(10)]
    account.seed((raw, RECEIVED_AT) for raw in raws)
    context = dovecot.ssl_context() if security is not Security.NONE else None
    port = dovecot.tls_port if security is Security.TLS else dovecot.port
    seen: set[int] = set()
    for offset in range(2_000, 200_000, 9_973):
        async with Proxy("127.0.0.1", port, Faults(cut_after=offset)) as proxy:
            got: dict[int, bytes] = {}
            with pytest.raises(NetworkError):
                await asyncio.wait_for(_read_into(account, proxy.port, security, context, got), 10)
            assert all(raws[uid - 1] == raw for uid, raw in got.items())
            seen.add(len(got))
    assert max(seen) >= 8


async def _read_into(
    account: Account, port: int, security: Security, context: ssl.SSLContext | None, got: dict[int, bytes]
) -> None:
    source = await connect(account, port=port, security=security, context=context, timeouts=Timeouts(command_s=1_000))
    await source.open("INBOX")
    async for fetched in source.fetch_bodies(range(1, 11), lambda _: Bytes()):
        got[fetched.meta.uid] = bytes(fetched.sink.data)
    await source.idle(1_000)


@pytest.mark.parametrize("faults", [Faults(half_close_after=3_000), Faults(cut_after=3_000)])
async def test_idle_ends_at_once_when_the_line_drops(dovecot: Dovecot, faults: Faults) -> None:
    account = dovecot.account()
    async with Proxy("127.0.0.1", dovecot.port, faults) as proxy:
        source = await connect(account, port=proxy.port)
        await source.open("INBOX")
        waiting = asyncio.create_task(source.idle(1_000))
        n = 0
        while not waiting.done():
            n += 1
            account.add(raw_message(n, 10), received_at=RECEIVED_AT)
            change = await asyncio.gather(waiting, return_exceptions=True)
            if isinstance(change[0], FolderChange):
                waiting = asyncio.create_task(source.idle(1_000))
                # Noise until the proxy's limit is reached.
                with contextlib.suppress(NetworkError):
                    await source.list_folders()
        with pytest.raises(NetworkError):
            await waiting
        await source.close()


async def test_a_line_gone_silent_is_noticed(dovecot: Dovecot) -> None:
    account = dovecot.account()
    async with Proxy("127.0.0.1", dovecot.port, Faults(stall_after=2_000)) as proxy:
        source = await connect(account, port=proxy.port)
        session = source._session
        session.timeouts = Timeouts(command_s=0.3, idle_s=0.1, logout_s=0.1)  # the login may take its time
        if session._timer is not None:  # the login's limit, which would be waited for first
            session._timer.cancel()
            session._timer = None
        with pytest.raises(NetworkError, match="did not answer"):
            await _open_and_idle_for_ever(source)
        await source.close()


async def _open_and_idle_for_ever(source: ImapSource) -> None:
    while True:
        await source.open("INBOX")
        await source.idle(0.05)


async def test_a_server_killed_and_started_again(own_dovecot: Dovecot) -> None:
    account = own_dovecot.account()
    account.seed((raw_message(n), RECEIVED_AT) for n in range(3))
    source = await connect(account)
    await source.open("INBOX")
    waiting = asyncio.create_task(source.idle(1_000))
    await asyncio.sleep(0)
    own_dovecot.kill()
    with pytest.raises(NetworkError):
        await waiting
    with pytest.raises(NetworkError, match="cannot connect"):
        await connect(account)
    own_dovecot.start()
    async with opened(account) as again:
        await again.open("INBOX")
        assert await again.list_uids() == [1, 2, 3]
    await source.close()


@pytest.mark.parametrize("security", [Security.NONE, Security.TLS, Security.STARTTLS])
async def test_a_slow_caller_holds_back_the_server_not_the_memory(dovecot: Dovecot, security: Security) -> None:
    account = dovecot.account()
    context = dovecot.ssl_context() if security is not Security.NONE else None
    account.seed((raw_message(n, 200_000), RECEIVED_AT) for n in range(60))
    opened_sinks = 0

    def open_sink(octets: int) -> Bytes:
        nonlocal opened_sinks
        opened_sinks += 1
        return Bytes()

    limits = Limits(window_bytes=1_000_000)
    async with opened(account, security=security, context=context, limits=limits) as source:
        await source.open("INBOX")
        uids = await source.list_uids()
        taken = 0
        async for _ in source.fetch_bodies(uids, open_sink):
            taken += 1
            # The window, the message that crosses it, and what one read brings along.
            assert opened_sinks <= taken + 8
            await asyncio.sleep(0)
        assert taken == 60


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("security", list(Security))
def test_bytes_arrive_whole_on_either_event_loop(
    dovecot: Dovecot, security: Security, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    account = dovecot.account()
    raws = [raw_message(n, 150_000) for n in range(20)]
    account.seed((raw, RECEIVED_AT) for raw in raws)
    context = dovecot.ssl_context() if security is not Security.NONE else None

    async def everything() -> dict[int, bytes]:
        async with opened(account, security=security, context=context, limits=Limits(window_bytes=300_000)) as source:
            await source.open("INBOX")
            return await bodies(source, await source.list_uids())

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(everything()) == dict(enumerate(raws, start=1))


async def test_close_in_the_middle_of_bodies(dovecot: Dovecot) -> None:
    account = dovecot.account()
    account.seed((raw_message(n, 200_000), RECEIVED_AT) for n in range(30))
    source = await connect(account)
    await source.open("INBOX")
    stream = source.fetch_bodies(list(range(1, 31)), lambda _: Bytes())
    await anext(stream)
    await source.close()
    with pytest.raises(NetworkError):
        async for _ in stream:
            pass


@pytest.mark.skipif(not SOAK, reason="one connection per byte takes long")
@pytest.mark.soak
async def test_a_line_cut_at_every_byte(dovecot: Dovecot) -> None:
    account = dovecot.account()
    account.seed((raw_message(n, 200), RECEIVED_AT) for n in range(10))
    for offset in range(6_000):
        async with Proxy("127.0.0.1", dovecot.port, Faults(cut_after=offset)) as proxy:
            with pytest.raises(NetworkError):
                await asyncio.wait_for(_read_into(account, proxy.port, Security.NONE, None, {}), 10)
