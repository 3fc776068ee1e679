"""HTML of many tags: made safe by a process that may take so much and no more; its words, where that is not enough."""

from __future__ import annotations

import sys
from unittest.mock import MagicMock

import pytest

from mailgate.messages.html import as_words, html_to_text, may_be_costly, sanitize_html
from mailgate.reading import html as module
from mailgate.reading.html import HtmlReader, safe_html

CELL = '<td align="left" style="color:red" title="a > b"><a href="https://x.example/?a=1&amp;b=2">'
CELL += "<b>one</b> two</a><br></td>"
ROW = f"<tr>{CELL * 3}</tr>"
NESTED = f"<tr><td><table><tbody>{ROW * 2}</tbody></table></td></tr>"
COSTLY = "<p>one</p>" * 20_001
CHEAP = {"tables", "blanks", "divs that seem to end", "drawings"}
LOOSE = '<tr><td>one<td><p>two<p>three<li><font size="2">four</font><img src="cid:x">'


@pytest.mark.parametrize("part", [ROW, NESTED, LOOSE], ids=["rows", "tables in tables", "without end tags"])
def test_large_newsletters_are_laid_out(part: str) -> None:
    source = "<html><head><style>p {}</style></head><body><table>" + part * (2_000_000 // len(part)) + "</table></body>"
    assert may_be_costly(source)
    safe = safe_html(source)
    assert safe == sanitize_html(source)
    assert safe.count("<td") == source.count("<td") > 10_000


@pytest.mark.parametrize("source", ["", "<p>one</p>", "<p>1 < 2 & ä \U0001f642 \ud800</p>"])
def test_few_tags_are_made_safe_here(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert safe_html(source) == sanitize_html(source)


@pytest.mark.parametrize(
    "source",
    [
        "<div>" * 100_000 + "text",
        "<b>" * 100_000 + "text",
        "<div>" + "".join(f"<font color=#{n:06x}>" for n in range(150)) + "</div>" + "<div>text</div>" * 50_000,
        "<table>" * 5_000 + "text",
        "<!--" * 200_000,
        "<" * 500_000,
        "<a " * 200_000,
        "<p title='" * 100_000,
        "&" * 500_000,
        "&amp;" * 400_000,
        "<p title='" + "&foo;" * 200_000,
        "&nbsp" * 25_000,
        "<p>" * 100_000 + "text",
        "<script>" * 50_000 + "text",
        "</p>" * 200_000,
        "<p " + " ".join(f"a{n}" for n in range(300_000)) + ">text",
        "<p " + "/".join(f"a{n}='>>'" for n in range(150_000)) + ">text",
        ("<p " + " ".join(f"a{n}" for n in range(40_000)) + ">text") * 12,
        "<!-- <p a='--></p " + "/".join(f"a{n}" for n in range(300_000)) + ">text",
        "<table>" + "<i></i>" * 10_000,
        "<div></x>" * 10_000,
        "<svg><g></x></y>" * 5_000,
    ],
    ids=[
        "divs",
        "bolds",
        "fonts",
        "tables",
        "comments",
        "angles",
        "anchors",
        "titles",
        "ampersands",
        "references",
        "unknown references",
        "blanks",
        "paragraphs",
        "scripts",
        "closings",
        "attributes",
        "attributes with angles",
        "attributes in several tags",
        "attributes behind a comment",
        "elements in a table",
        "divs that seem to end",
        "drawings",
    ],
)
def test_hostile_html_is_made_safe_elsewhere_and_gives_little(
    source: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROCESSOR_S", 1)
    run = MagicMock(wraps=module.limited.run)
    monkeypatch.setattr(module.limited, "run", run)
    safe = safe_html(source)
    assert run.call_count == (request.node.callspec.id not in CHEAP)
    html_to_text(source)
    assert len(safe) <= 10 * len(source) + 10_000


@pytest.mark.parametrize(
    "part",
    ["<i></i>", "<br>", "<tr><img>", "x<div></x>", "<svg><g></x></y>"],
    ids=["table", "breaks", "rows", "depth", "drawings"],
)
def test_what_costs_the_square_of_its_tags_is_cut(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROCESSOR_S", 1)
    source = "<table>" + part * (2_000_000 // len(part)) + "words"
    assert safe_html(source) == as_words(source)


def run_as(monkeypatch: pytest.MonkeyPatch, made: bytes, code: int) -> MagicMock:
    run = MagicMock(return_value=(made, code))
    monkeypatch.setattr(module.limited, "run", run)
    return run


def test_what_was_cut_is_remembered_by_the_message_and_of_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_as(monkeypatch, b"", -9)
    reader = HtmlReader(kept=2)
    for name in ("one", "two", "one", "two"):
        assert reader.safe(name, COSTLY) == as_words(COSTLY)
    assert run.call_count == 2
    reader.safe("three", COSTLY)
    reader.safe("two", COSTLY)
    assert run.call_count == 3
    reader.safe("one", COSTLY)
    assert run.call_count == 4


@pytest.mark.parametrize("made", [b"<p>safe</p>", b""], ids=["made safe", "no process to be had"])
def test_what_was_not_cut_is_tried_again(made: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_as(monkeypatch, made, 0)
    reader = HtmlReader()
    for _ in range(2):
        assert reader.safe("one", COSTLY) == (made.decode() or as_words(COSTLY))
    assert run.call_count == 2


def test_without_a_process_words_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    source = COSTLY
    assert safe_html(source).startswith("<pre>one")


def test_characters_that_are_none_end_nothing() -> None:
    source = "<p>ä \U0001f642 \ud800</p>" * 20_001
    assert safe_html(source) == sanitize_html(source)
