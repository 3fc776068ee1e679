"""The log: its form, and that no secret gets into it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from mailgate.logs import REDACTED, configure, redact_text
from mailgate.settings import LogSettings


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, structlog.get_config())
    stream = io.StringIO()
    configure(LogSettings(format="json", level="debug"), stream)
    yield stream
    root.handlers[:], level, config = before[0], before[1], before[2]
    root.setLevel(level)
    structlog.configure(**config)


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_entry_is_one_json_object_with_time_level_and_logger(stream: io.StringIO) -> None:
    structlog.get_logger("mailgate.sync").info("import done", mailbox_id="01X", messages=3)
    (entry,) = entries(stream)
    assert entry["event"] == "import done"
    assert (entry["level"], entry["logger"], entry["messages"]) == ("info", "mailgate.sync", 3)
    assert entry["timestamp"].endswith("Z")


def test_what_anybody_may_send_to_the_server_is_no_line_of_the_log(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").error("what went wrong in here")
    assert [entry["event"] for entry in entries(stream)] == ["what went wrong in here"]


def test_libraries_come_out_in_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("library").warning("took %d s", 3)
    assert entries(stream)[0]["event"] == "took 3 s"


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "passwd",
        "client_secret",
        "token",
        "access_token",
        "Authorization",
        "cookie",
        "api_key",
        "data_key",
        "seed",
    ],
)
def test_values_of_secret_keys_are_not_written(stream: io.StringIO, key: str) -> None:
    structlog.get_logger().info("x", **{key: "hunter2"}, deep={"list": [{key: "hunter2"}]}, raw={key: b"hunter2"})
    assert "hunter2" not in stream.getvalue()
    assert entries(stream)[0][key] == REDACTED


def test_texts_are_cleaned_of_tokens_and_passwords_in_urls(stream: io.StringIO) -> None:
    structlog.get_logger().warning(
        "refused Authorization: Bearer hunter2",
        url="postgresql://u:hunter2@h/d",
        note="mg_hunter2hunter2hunter2hunter2",
    )
    assert "hunter2" not in stream.getvalue()


def test_a_traceback_is_cleaned_too(stream: io.StringIO) -> None:
    try:
        int("postgresql://u:hunter2@h/d")
    except ValueError:
        structlog.get_logger().exception("start failed")
    assert "hunter2" not in stream.getvalue()
    assert "ValueError" in entries(stream)[0]["exception"]


def test_no_local_variable_of_a_traceback_is_written() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, structlog.get_config())
    for form in ("console", "json"):
        stream = io.StringIO()
        configure(LogSettings(format=form), stream)
        password = "hunter2"
        try:
            int(f"{len(password)} is no number")
        except ValueError:
            structlog.get_logger().exception("start failed")
        assert "ValueError" in stream.getvalue()
        assert "hunter2" not in stream.getvalue().replace('password = "hunter2"', "")
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    structlog.configure(**before[2])


def test_what_names_no_secret_is_kept(stream: io.StringIO) -> None:
    structlog.get_logger().info("x", token_id="01ABC", has_password=True, header_tokens=3)
    entry = entries(stream)[0]
    assert (entry["token_id"], entry["has_password"], entry["header_tokens"]) == ("01ABC", True, 3)


def test_plain_texts_stay_as_they_are() -> None:
    text = "https://mail.example/path?x=1 and a@b"
    assert redact_text(text) == text
