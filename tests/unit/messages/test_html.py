"""HTML: nothing that acts or fetches survives, what mail looks like does."""

from __future__ import annotations

import re

import pytest

from mailgate.messages import html_to_text, sanitize_html


@pytest.mark.parametrize(
    "source",
    [
        "<script>alert(1)</script>",
        "<SCRIPT SRC=//x.example/x.js></SCRIPT>",
        "<img src=x onerror=alert(1)>",
        "<svg onload=alert(1)><script>alert(1)</script></svg>",
        "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
        "<a href='javascript:alert(1)'>x</a>",
        "<a href=' jav\tascript:alert(1)'>x</a>",
        "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
        "<a href='vbscript:alert(1)'>x</a>",
        "<iframe src=https://x.example></iframe>",
        "<object data=x></object><embed src=x>",
        "<form action=https://x.example><input name=password><button>go</button></form>",
        "<meta http-equiv=refresh content='0;url=https://x.example'>",
        "<base href=https://x.example/>",
        "<link rel=stylesheet href=https://x.example/x.css>",
        "<style>@import 'https://x.example/x.css'; body{background:url(https://x.example/o)}</style>",
        "<div style='background:url(https://x.example/o.gif)'>x</div>",
        "<div style='background-image:url(https://x.example/o.gif)'>x</div>",
        "<div style='list-style:url(https://x.example/o.gif)'>x</div>",
        "<div style='background-color:u\\72l(https://x.example/o.gif)'>x</div>",
        "<div style='width:expression(alert(1))'>x</div>",
        "<table background=https://x.example/o.gif><tr><td background=https://x.example/o.gif>x</table>",
        "<video src=https://x.example/v poster=https://x.example/p></video><audio src=https://x.example/a></audio>",
        "<picture><source srcset=https://x.example/a.png></picture>",
        "<img srcset='https://x.example/a.png 1x'>",
        "<img src=data:image/svg+xml,<svg/onload=alert(1)>>",
        "<img src='data:text/html;base64,PHNjcmlwdD4='>",
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
        "<!--[if mso]><script>alert(1)</script><![endif]-->",
        "<div style='position:fixed;top:0;left:0;width:9999px'>cover</div>",
        "<p id=x class=y data-x=z>x</p>",
        "<plaintext><script>alert(1)</script>",
        "<template><script>alert(1)</script></template>",
    ],
)
def test_nothing_that_acts_or_fetches_survives(source: str) -> None:
    safe = sanitize_html(source)
    tags = " ".join(re.findall(r"<[^>]*>", safe)).lower()
    for forbidden in (
        "script",
        "onerror",
        "onload",
        "javascript:",
        "vbscript:",
        "<iframe",
        "<object",
        "<embed",
        "<form",
        "<input",
    ):
        assert forbidden not in tags
    for forbidden in (
        "<style",
        "<link",
        "<meta",
        "<base",
        "<svg",
        "<math",
        "url(",
        "expression",
        "srcset",
        "background=",
        "position",
    ):
        assert forbidden not in tags
    assert not re.search(r"""\s(?:src|href|poster)="(?!https?://x\.example"|cid:|mailto:|data:image/)""", tags)
    assert not re.search(r'<(?!a )[^>]*\s(?:src|href|poster|background)="(?:https?:)?//', tags)
    assert "alert" not in tags


def test_remote_images_are_parked_and_own_images_stay() -> None:
    safe = sanitize_html(
        '<img src="https://track.example/o.gif?a=1&b=2" width="1"><img src="cid:logo@x">'
        '<img src="data:image/png;base64,AAAA">'
        '<img src="//track.example/p.gif"><img src="relative.gif"><img alt="a > b" src="http://track.example/q">'
    )
    assert re.findall(r'\ssrc="([^"]*)"', safe) == ["cid:logo@x", "data:image/png;base64,AAAA"]
    parked = re.findall(r'data-remote-src="([^"]*)"', safe)
    assert parked[0] == "https://track.example/o.gif?a=1&amp;b=2"
    assert parked[-1] == "http://track.example/q"


@pytest.mark.parametrize(
    "source",
    [
        '<a title="<img src=" href="https://x.example/">text</a>',
        '<img alt="<img src=&quot;https://x.example/a&quot;>" src="https://x.example/b">',
        '<p>&lt;img src="https://x.example/a"&gt;</p>',
        '<img alt=">" title=" src=" src="https://x.example/c">',
        "<img src='https://x.example/\"onerror=alert(1)//'>",
    ],
)
def test_parking_cannot_be_tricked(source: str) -> None:
    safe = sanitize_html(source)
    assert sanitize_html(safe.replace("data-remote-src", "src")) == safe
    assert not re.search(r'<img\b(?:\s+[^\s"=<>/]+="[^"]*")*\s+src="https?:', safe)


def test_links_open_nothing_in_our_name() -> None:
    safe = sanitize_html(
        '<a href="https://example.org/x?a=1" rel="opener" target="_self">x</a><a href="mailto:a@example.org">m</a>'
    )
    assert safe.count('rel="noopener noreferrer nofollow"') == 2
    assert safe.count('target="_blank"') == 2
    assert 'href="https://example.org/x?a=1"' in safe
    assert 'href="mailto:a@example.org"' in safe


def test_what_mail_looks_like_stays() -> None:
    source = (
        '<table width="600" cellpadding="4" bgcolor="#ffffff"><tbody><tr>'
        '<td align="center" style="color:red;font-weight:bold">'
        "<h1>Offer</h1><ul><li>one</li></ul><blockquote>quoted</blockquote></td></tr></tbody></table>"
    )
    safe = sanitize_html(source)
    for kept in (
        'width="600"',
        'bgcolor="#ffffff"',
        "color:red",
        "font-weight:bold",
        "<h1>Offer</h1>",
        "<li>one</li>",
        "<blockquote>",
    ):
        assert kept in safe


def test_sanitizing_twice_changes_nothing() -> None:
    once = sanitize_html("<p>a<b>b<img src=cid:x><a href=https://x.example>c</a>&amp;&lt;")
    assert sanitize_html(once) == once


@pytest.mark.parametrize("element", ["<div></x>", "<span></b>", "<ul><li></x></y>", "<table><tr><td></p></p></p>"])
def test_end_tags_that_end_nothing_hide_no_depth(element: str) -> None:
    assert sanitize_html(element * 201 + "text").startswith("<pre>")
    assert not sanitize_html(element * 20 + "text").startswith("<pre>")


@pytest.mark.parametrize("part", ["<p>text", "<li>text", "<tr><td>text", "<dt>text<dd>text", "<option>text"])
def test_end_tags_that_may_be_left_out_are_no_depth(part: str) -> None:
    safe = sanitize_html("<table>" + part * 300)
    assert not safe.startswith("<pre>")
    assert safe.count("text") == 300 * part.count("text")


def test_html_that_becomes_far_larger_is_shown_as_words() -> None:
    fonts = "".join(f"<font color=#{n:06x}>" for n in range(150))
    assert sanitize_html(f"<div>{fonts}</div>" + "<div>text</div>" * 1_000) == "<pre>" + "text\n\n" * 999 + "text</pre>"


def test_text_of_html() -> None:
    source = (
        "<html><head><title>no</title><style>p{}</style></head><body><!-- no -->"
        "<p>Dear&nbsp;Anna,<br>hello&amp;bye</p>\n\n"
        "<ul><li>one</li><li>two</li></ul><table><tr><td>a</td><td>b</td></tr></table><script>no()</script>"
        "&zwnj;&#8203;preview\u200b<div>\n  end  </div></body></html>"
    )
    assert html_to_text(source) == "Dear Anna,\nhello&bye\n\n- one\n- two\n\na b\n\npreview\nend"


@pytest.mark.parametrize(
    ("source", "text"), [("", ""), ("plain", "plain"), ("a < b > c", "a < b > c"), ("1 <2 and 3> 2", "1 <2 and 3> 2")]
)
def test_text_of_little(source: str, text: str) -> None:
    assert html_to_text(source) == text
