"""Parts of the demonstration that do not need the gateway: the tap, the cast, the auditor, the screen."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from mailgate.demo.auditor import Auditor
from mailgate.demo.cast import cast, expected, mail_of
from mailgate.demo.mail import DAY
from mailgate.demo.screen import Screen
from mailgate.demo.show import Options, show
from mailgate.demo.tap import Tap

NOW = 1_790_000_000_000_000


async def test_tap_passes_everything_and_names_each_command() -> None:
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK ready\r\n")
        while data := await reader.read(100):
            received.extend(data)
            writer.write(b"* BYE\r\n" if received.endswith(b"LOGOUT\r\n") else b"* OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    tap = await Tap(server.sockets[0].getsockname()[1]).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
    assert await reader.readline() == b"* OK ready\r\n"
    sent = b'A1 LOGIN "ada" "secret"\r\nA2 UID FETCH 1:* (UID)\r\nA3 IDLE\r\nDONE\r\nA4 LOG'
    writer.write(sent)
    await reader.readline()
    writer.write(b"OUT\r\n")
    while b"BYE" not in await reader.readline():
        pass
    writer.close()
    await writer.wait_closed()
    await tap.close()
    server.close()
    assert bytes(received) == sent + b"OUT\r\n"
    assert tap.commands == ["LOGIN", "UID FETCH", "IDLE", "DONE", "LOGOUT"]
    assert tap.open == 0


@pytest.mark.parametrize("slow", [False, True])
def test_every_plan_has_a_tenant_and_each_age_class_mail(slow: bool) -> None:
    tenants = cast("secret", slow=slow)
    assert {tenant.plan for tenant in tenants} == {"free", "crm_plus", "demo", "standard", "professional", "nfr"}
    for tenant in tenants:
        mails = mail_of(tenant, now=NOW)
        assert len(mails) <= 300
        assert all(abs((NOW - mail.received_at) / DAY - edge) > 1 / 24 for mail in mails for edge in (30, 60, 90))
        wanted = expected(tenant, mails, now=NOW)
        assert wanted.on_server == len(mails)
        assert wanted.on_server > wanted.imported == wanted.young + wanted.old
        assert (wanted.young == 0) == (tenant.days == 0)
        assert (wanted.old == 0) == (tenant.days == 90)


async def test_auditor_refuses_what_is_no_log(tmp_path: Path) -> None:
    auditor = Auditor(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    verdict = await auditor.check("verify", empty, "mailgate.demo.example+00000000+AAAA")
    assert not verdict.ok
    assert verdict.text


def test_screen_without_a_terminal_writes_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.act("First")
    with screen.bars([("a", "Larkspur Bakery")]) as bars:
        bars.update("a", 1, 2, "busy")
        bars.update("a", 2, 2, "live", finished=True)
        bars.update("a", 2, 2, "live", finished=True)
    screen.table([("plan", "bold"), ("kept", "")], [("free", "0")], end=("", "1"))
    screen.proved("held")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("2/2  live") == 1
    assert "✓ held" in out


def test_recorded_screen_becomes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(record=True)
    monkeypatch.setattr(screen.console, "file", io.StringIO())
    screen.act("First")
    with screen.bars([("a", "Larkspur Bakery")]) as bars:
        bars.update("a", 2, 2, "live")
    screen.save(tmp_path / "shown.svg", title="make demo")
    picture = (tmp_path / "shown.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert picture.count("Larkspur") == 1


async def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("mine", encoding="utf-8")
    options = Options(data=tmp_path, server="pymap", serve=False, port=None, record=None)
    assert await show(options) == 1
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8") == "mine"
    assert "not made by the demonstration" in capsys.readouterr().out
