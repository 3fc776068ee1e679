"""Hand-made mail that is broken, odd or hostile in the ways real mail is: `NASTY[name]` is the raw message.

Import tests store each one and read it back byte for byte; parser tests look at what is made of some of them. Add to
it what was met in the wild (with the words changed). Line ends are as a server would send them (CRLF) unless they are
the point.
"""

from __future__ import annotations

import base64

_HEAD = (
    b"From: Anna Example <anna@example.org>\r\n"
    b"To: Bert <bert@example.com>\r\n"
    b"Subject: hello\r\n"
    b"Date: Mon, 2 Nov 2026 10:00:00 +0100\r\n"
    b"Message-ID: <one@example.org>\r\n"
    b"MIME-Version: 1.0\r\n"
)
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _text(
    body: bytes, kind: bytes = b"text/plain; charset=utf-8", head: bytes = _HEAD, encoding: bytes = b"8bit"
) -> bytes:
    return head + b"Content-Type: " + kind + b"\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body


def _header(field: bytes, body: bytes = b"body\r\n") -> bytes:
    return b"Date: Mon, 2 Nov 2026 10:00:00 +0100\r\nMessage-ID: <one@example.org>\r\n" + field + b"\r\n\r\n" + body


def _multi(kind: bytes, *parts: bytes, boundary: bytes = b"edge", close: bool = True, head: bytes = _HEAD) -> bytes:
    inside = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    end = b"--" + boundary + b"--\r\n" if close else b""
    return (
        head + b"Content-Type: multipart/" + kind + b'; boundary="' + boundary + b'"\r\n\r\npreamble\r\n' + inside + end
    )


def _part(kind: bytes, body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"Content-Type: " + kind, *fields, b"", body])


_PLAIN = _part(b"text/plain; charset=utf-8", "Grüße\r\n".encode())
_HTML = _part(b"text/html; charset=utf-8", "<p>Grüße <b>fett</b></p>\r\n".encode())
_PDF = _part(
    b'application/pdf; name="offer.pdf"',
    base64.encodebytes(b"%PDF-1.4 not really").replace(b"\n", b"\r\n"),
    b"Content-Transfer-Encoding: base64",
    b'Content-Disposition: attachment; filename="offer.pdf"',
)


def _nested(levels: int, tail: bytes) -> bytes:
    out = [_HEAD]
    for level in range(levels):
        edge = b"e%d" % level
        out.append(b"Content-Type: multipart/mixed; boundary=" + edge + b"\r\n\r\n--" + edge + b"\r\n")
    return b"".join(out) + b"\r\n" + tail


def _rfc822(levels: int) -> bytes:
    return b"".join(_HEAD + b"Content-Type: message/rfc822\r\n\r\n" for _ in range(levels)) + _text(b"innermost\r\n")


NASTY: dict[str, bytes] = {
    # nothing, or nearly nothing
    "empty": b"",
    "one newline": b"\r\n",
    "only newlines": b"\n\n\n\r\n\r\n",
    "one byte": b"x",
    "nul bytes only": b"\0" * 300,
    "all byte values": bytes(range(256)) * 4,
    "header without end": b"From: a@example.org",
    "header and blank line only": b"From: a@example.org\r\nSubject: no body\r\n\r\n",
    "body only": b"\r\nThis is no header: but text.\r\n",
    "text that is no mail": b"hello world, nobody wrote a header here\r\nsecond line\r\n",
    # line ends
    "bare LF": _text("Grüße\r\n".encode()).replace(b"\r\n", b"\n"),
    "bare CR": _text(b"hello\r\n").replace(b"\r\n", b"\r"),
    "mixed line ends": _text(b"a\nb\r\nc\rd\r\n", head=_HEAD.replace(b"\r\n", b"\n", 3)),
    "CRCRLF": _text(b"hello\r\n").replace(b"\r\n", b"\r\r\n"),
    "no newline at the end": _text(b"last line"),
    "blank line with blanks": _HEAD + b"  \t\r\n\r\nbody\r\n",
    "very long line": _text(b"x" * 200_000 + b"\r\n"),
    # header syntax
    "mbox From line": b"From anna@example.org Mon Nov  2 10:00:00 2026\r\n" + _text(b"body\r\n"),
    "quoted mbox From line": b">From anna@example.org Mon Nov  2 10:00:00 2026\r\n" + _text(b"body\r\n"),
    "header starts with a space": b" folded: from nowhere\r\n" + _text(b"body\r\n"),
    "header line without colon": b"From: a@example.org\r\nthis line has none\r\nSubject: after it\r\n\r\nbody\r\n",
    "space before colon": _header(b"Subject : spaced\r\nFrom : a@example.org"),
    "empty field names": _header(b": nothing\r\n:: more\r\nSubject: still here"),
    "folded subject": _header(b"Subject: one\r\n two\r\n\tthree"),
    "folded with blank continuation": _header(b"Subject: one\r\n \r\n two\r\nFrom: a@example.org"),
    "subject twice": _header(b"Subject: first\r\nSubject: second\r\nFrom: a@example.org\r\nFrom: b@example.org"),
    "to twice": _header(b"To: a@example.org\r\nCc: x@example.org\r\nTo: b@example.org, c@example.org"),
    "no headers of its own": b"X-Nothing: to see\r\n\r\nbody\r\n",
    "huge header": _header(b"X-Long: " + b"a" * 500_000 + b"\r\nSubject: behind a huge one"),
    "ten thousand received": b"Received: from a by b; Mon, 2 Nov 2026 10:00:00 +0100\r\n" * 10_000 + _text(b"body\r\n"),
    "nul in header": _header(b"Subject: a\0b\r\nFrom: \0Anna\0 <a\0@example.org>"),
    "control characters in header": _header(b"Subject: a\x01\x02\x1b[31mred\x07\r\nFrom: \x08x <a@example.org>"),
    # header charsets
    "raw UTF-8 header": _header("Subject: Grüße aus Köln\r\nFrom: Jörg <joerg@example.org>".encode()),
    "raw latin-1 header": _header("Subject: Grüße aus Köln\r\nFrom: Jörg <joerg@example.org>".encode("latin-1")),
    "raw koi8 header": _header(
        "Subject: Привет\r\nContent-Type: text/plain; charset=koi8-r".encode("koi8-r"), "мир".encode("koi8-r")
    ),
    "raw shift_jis header": _header(
        "Subject: 日本語\r\nContent-Type: text/plain; charset=Shift_JIS".encode("cp932"), "本文".encode("cp932")
    ),
    "encoded words": _header(
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?b?IGF1cyBLw7Zsbg==?= and =?iso-8859-1?q?M=FCnchen?="
    ),
    "character cut by two words": _header(b"Subject: =?utf-8?b?R3LD?=\r\n =?utf-8?b?vMOfZQ==?="),
    "encoded word unknown charset": _header(b"Subject: =?x-klingon?q?Gr=C3=BC=C3=9Fe?="),
    "encoded word wrong charset": _header(b"Subject: =?us-ascii?q?Gr=C3=BC=C3=9Fe?= =?utf-8?q?Gr=FC=DFe?="),
    "encoded word broken base64": _header(b"Subject: =?utf-8?b?R3LDvMOfZ?= =?utf-8?b?****?= =?utf-8?b??="),
    "encoded word broken quoted": _header(b"Subject: =?utf-8?q?a=ZZb=C3?= =?utf-8?q?unclosed"),
    "encoded word with blanks": _header(b"Subject: =?utf-8?q?has blanks in it?="),
    "encoded word with language": _header(b"Subject: =?utf-8*de?q?Gr=C3=BC=C3=9Fe?="),
    "encoded word in quotes": _header(b'From: "=?utf-8?q?J=C3=B6rg?= Example" <joerg@example.org>'),
    "encoded word hides a header": _header(b"Subject: =?utf-8?q?a=0D=0ABcc:_evil@example.org?="),
    "encoded word utf-7": _header(b"Subject: =?unicode-1-1-utf-7?q?Gr+APwA3w-e?="),
    "encoded word iso-2022-jp": _header(b"Subject: =?iso-2022-jp?b?GyRCRnxLXDhsGyhC?="),
    "encoded word gb2312": _header(b"Subject: =?gb2312?b?xOO6ww==?="),
    "encoded word lone surrogate": _header(b"Subject: =?utf-16-be?b?2AAAQQ==?= =?utf-8?b?7aCA?="),
    "encoded word python codec": _header(
        b"Subject: =?unicode_escape?q?=5Cx41?= =?zlib?b?eJw=?= =?idna?q?xn--?= =?punycode?q?a-b?="
    ),
    "ten thousand encoded words": _header(b"Subject: " + b"=?utf-8?q?=C3=BC?= " * 10_000),
    # addresses
    "no addresses": b"Subject: from nobody\r\n\r\nbody\r\n",
    "group": _header(b"To: team: anna@example.org, Bert <bert@example.com>;, Undisclosed recipients:;"),
    "undisclosed": _header(b"To: undisclosed-recipients:;\r\nFrom: <>"),
    "unquoted comma": _header(
        b"From: Example, Anna <anna@example.org>\r\nTo: Doe, John <j@example.com>, k@example.com"
    ),
    "unclosed quote": _header(b'From: "Anna <anna@example.org>\r\nTo: "a" <a@example.com>, "b <b@example.com>'),
    "unclosed angle": _header(b"From: Anna <anna@example.org\r\nTo: a@example.com, <b@example.com"),
    "comments": _header(b"From: anna@example.org (Anna (the) Example)\r\nTo: (nobody) bert(x)@(y)example.com"),
    "address without domain": _header(b"From: root\r\nTo: MAILER-DAEMON (Mail System)"),
    "address twice": _header(b"From: anna@example.org <anna@example.org>\r\nTo: 'bert@example.com' <bert@example.com>"),
    "no commas": _header(b"To: <a@example.org> <b@example.org> c@example.org"),
    "address literal": _header(b"From: anna@[192.0.2.1]\r\nTo: bert@[IPv6:2001:db8::1], c@example.org"),
    "quoted local part": _header(b'From: "anna bell"@example.org\r\nTo: "very.(),:;<>[]" <a@example.org>'),
    "international address": _header("From: Ñandú <ñandú@exämple.org>\r\nTo: 用户@例子.广告".encode()),
    "five thousand recipients": _header(
        b"To: " + b",\r\n ".join(b"Person %d <p%d@example.org>" % (n, n) for n in range(5_000))
    ),
    "very long address": _header(b"From: " + b"a" * 100_000 + b"@example.org"),
    "parentheses bomb": _header(b"From: " + b"(" * 50_000 + b"a@example.org"),
    "quotes bomb": _header(b"From: " + b'"\\' * 50_000),
    "angles bomb": _header(b"From: " + b"<" * 50_000),
    # dates and ids
    "no date": b"From: a@example.org\r\nSubject: when\r\n\r\nbody\r\n",
    "nonsense date": _HEAD.replace(b"Mon, 2 Nov 2026 10:00:00 +0100", b"yesterday, I think") + b"\r\nbody\r\n",
    "date overflow": _HEAD.replace(b"2 Nov 2026 10:00:00 +0100", b"2 Nov 99999999999 99:99:99 +9999999999")
    + b"\r\nbody\r\n",
    "date year 0": _HEAD.replace(b"2026", b"0000") + b"\r\nbody\r\n",
    "date two digit year": _HEAD.replace(b"2026", b"98") + b"\r\nbody\r\n",
    "date without zone": _HEAD.replace(b" +0100", b"") + b"\r\nbody\r\n",
    "date with comment": _HEAD.replace(b"+0100", b"+0100 (CET)") + b"\r\nbody\r\n",
    "no message id": _HEAD.replace(b"Message-ID: <one@example.org>\r\n", b"") + b"\r\nbody\r\n",
    "message id without brackets": _HEAD.replace(b"<one@example.org>", b"one@example.org") + b"\r\nbody\r\n",
    "message id with blanks": _HEAD.replace(b"<one@example.org>", b"<one two@example.org> (x)") + b"\r\nbody\r\n",
    "empty message id": _HEAD.replace(b"<one@example.org>", b"<>") + b"\r\nbody\r\n",
    "references folded and repeated": _HEAD
    + b"References: <r@x>\r\n <s@x>\r\n\t<r@x>\r\nIn-Reply-To: message of <s@x> Monday\r\n\r\nbody\r\n",
    "ten thousand references": _HEAD
    + b"References: "
    + b"\r\n ".join(b"<%d@x>" % n for n in range(10_000))
    + b"\r\n\r\nbody\r\n",
    # bodies and charsets
    "body unknown charset": _text("Grüße\r\n".encode(), b"text/plain; charset=x-unknown"),
    "body no charset": _text("Grüße\r\n".encode(), b"text/plain"),
    "body no content type": _HEAD + b"\r\n" + "Grüße\r\n".encode(),
    "body wrong charset": _text("Grüße\r\n".encode("latin-1"), b"text/plain; charset=utf-8"),
    "body says ascii": _text("Grüße\r\n".encode(), b"text/plain; charset=us-ascii"),
    "body cp-850": _text("Grüße\r\n".encode("cp850"), b"text/plain; charset=cp-850"),
    "body utf-7": _text(b"Gr+APwA3w-e\r\n", b"text/plain; charset=unicode-1-1-utf-7"),
    "body iso-8859-8-i": _text("שלום\r\n".encode("iso8859-8"), b"text/plain; charset=iso-8859-8-i"),
    "body ks_c_5601-1987": _text("안녕하세요 똠\r\n".encode("cp949"), b"text/plain; charset=ks_c_5601-1987"),
    "body iso-2022-jp": _text("日本語\r\n".encode("iso2022_jp"), b"text/plain; charset=ISO-2022-JP"),
    "body gb2312 with gbk": _text("你好镕\r\n".encode("gbk"), b"text/plain; charset=gb2312"),
    "body big5": _text("您好\r\n".encode("big5"), b"text/plain; charset=big5"),
    "body utf-16": _text("Grüße\r\n".encode("utf-16"), b"text/plain; charset=utf-16"),
    "body with nul": _text(b"a\0b\0c\r\n"),
    "body charset in quotes": _text("Grüße\r\n".encode("latin-1"), b"text/plain; charset='iso-8859-1'"),
    "body charset hostile": _text(b"body\r\n", b'text/plain; charset="../../etc/passwd\0"'),
    "body charset long": _text(b"body\r\n", b"text/plain; charset=" + b"x" * 10_000),
    "broken base64": _text(b"SGVsbG8gd29y!!bGQ\r\n==\r\nxx", encoding=b"base64"),
    "base64 with text behind": _text(
        base64.b64encode(b"Hello world") + b"\r\n\r\n-- \r\nScanned by a scanner.\r\n", encoding=b"base64"
    ),
    "base64 without padding": _text(b"SGVsbG8", encoding=b"base64"),
    "broken quoted-printable": _text(b"a=ZZb =\r\nc=C3=BC=\r\nend=", encoding=b"quoted-printable"),
    "unknown transfer encoding": _text(b"body\r\n", encoding=b"x-rot13"),
    "uuencode": _text(b"begin 644 a.txt\r\n#86)C\r\n`\r\nend\r\n", encoding=b"x-uuencode"),
    "format flowed": _text(
        b"This is \r\none paragraph.\r\n>quoted \r\n>too\r\n\r\n-- \r\nAnna\r\n",
        b"text/plain; charset=utf-8; format=flowed",
    ),
    "format flowed delsp": _text("日本 \r\n語\r\n".encode(), b"text/plain; charset=utf-8; format=flowed; delsp=yes"),
    "reply with quotes": _text(
        b"Yes, Tuesday works.\r\n\r\nOn Mon, 2 Nov 2026 at 09:12, Bert <bert@example.com> wrote:\r\n"
        b"> Does Tuesday work?\r\n>\r\n> Bert\r\n"
    ),
    "only quotes": _text(b"> Does Tuesday work?\r\n> Bert\r\n"),
    "only a signature": _text(b"-- \r\nAnna\r\n"),
    # HTML
    "html only": _text(
        "<html><head><title>no</title><style>p{color:red}</style></head><body><p>Grüße</p></body></html>".encode(),
        b"text/html; charset=utf-8",
    ),
    "html script": _text(
        b"<p onclick=x()>hi<script>alert(1)</script><a href='javascript:alert(1)'>x</a><form action=/x><input></form>",
        b"text/html",
    ),
    "html tracker": _text(
        b'<p>hi</p><img src="https://track.example/o.gif?id=1" width=1 height=1><img src="cid:a@b">', b"text/html"
    ),
    "html deep": _text(b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000, b"text/html"),
    "html unclosed": _text(b"<p>hi <b>bold <!-- never closed " + b"<!--" * 20_000, b"text/html"),
    "html nul and entities": _text(b"<p>a\0b&#0;&#xD800;&#55296;&amp;&bogus;&#99999999999;</p>", b"text/html"),
    # structure
    "alternative": _multi(b"alternative", _PLAIN, _HTML),
    "alternative html first": _multi(b"alternative", _HTML, _PLAIN),
    "alternative with empty plain": _multi(b"alternative", _part(b"text/plain", b" \r\n"), _HTML),
    "alternative with calendar": _multi(
        b"alternative", _PLAIN, _part(b"text/calendar; method=REQUEST", b"BEGIN:VCALENDAR\r\nEND:VCALENDAR")
    ),
    "mixed with file": _multi(b"mixed", _PLAIN, _PDF),
    "text file text": _multi(b"mixed", _PLAIN, _PDF, _part(b"text/plain", b"-- \r\nlist footer\r\n")),
    "related with inline image": _multi(
        b"related",
        _part(b"text/html", b'<p>see</p><img src="cid:logo@x">'),
        _part(
            b"image/png",
            base64.b64encode(_PNG),
            b"Content-Transfer-Encoding: base64",
            b"Content-ID: <logo@x>",
            b"Content-Disposition: inline",
        ),
    ),
    "inline pdf of apple mail": _multi(
        b"mixed", _PLAIN, _part(b"application/pdf; name=a.pdf", b"%PDF", b"Content-Disposition: inline; filename=a.pdf")
    ),
    "text as file": _multi(
        b"mixed",
        _PLAIN,
        _part(b"text/plain; name=notes.txt", b"notes", b"Content-Disposition: attachment; filename=notes.txt"),
    ),
    "only a file": _part(
        b"application/pdf", b"%PDF", b"From: a@example.org", b"Content-Disposition: attachment; filename=a.pdf"
    ),
    "text marked as file": _part(
        b"text/plain", b"hello", b"From: a@example.org", b"Content-Disposition: attachment; filename=a.txt"
    ),
    "signed": _multi(
        b"signed", _PLAIN, _part(b"application/pgp-signature; name=signature.asc", b"-----BEGIN PGP SIGNATURE-----")
    ),
    "winmail.dat": _multi(
        b"mixed",
        _PLAIN,
        _part(
            b'application/ms-tnef; name="winmail.dat"',
            base64.b64encode(b"\x78\x9f\x3e\x22"),
            b"Content-Transfer-Encoding: base64",
        ),
    ),
    "forwarded message": _multi(
        b"mixed", _PLAIN, _part(b"message/rfc822", _multi(b"mixed", _PLAIN, _PDF, boundary=b"inner"))
    ),
    "forwarded in base64": _multi(
        b"mixed",
        _PLAIN,
        _part(b"message/rfc822", base64.encodebytes(_text(b"inner\r\n")), b"Content-Transfer-Encoding: base64"),
    ),
    "bounce": _multi(
        b"report; report-type=delivery-status",
        _part(b"text/plain", b"Your message could not be delivered."),
        _part(
            b"message/delivery-status", b"Reporting-MTA: dns; mx.example.org\r\n\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        ),
        _part(b"text/rfc822-headers", _HEAD),
    ),
    "digest": _multi(b"digest", b"\r\n" + _text(b"one\r\n"), b"\r\n" + _text(b"two\r\n")),
    "multipart without boundary": _HEAD + b"Content-Type: multipart/mixed\r\n\r\n--edge\r\n\r\nhello\r\n--edge--\r\n",
    "multipart with wrong boundary": _HEAD
    + b"Content-Type: multipart/mixed; boundary=other\r\n\r\n--edge\r\n\r\nhello\r\n--edge--\r\n",
    "multipart never closed": _multi(b"mixed", _PLAIN, _PDF, close=False),
    "multipart cut in base64": _multi(b"mixed", _PLAIN, _PDF)[:-60],
    "broken base64 in a part": _multi(
        b"mixed",
        _PLAIN,
        _part(b"application/pdf; name=a.pdf", b"JVBERi0xLjQ!\r\nx", b"Content-Transfer-Encoding: base64"),
        _part(b"application/zip", b"UEsDB", b"Content-Transfer-Encoding: base64"),
    ),
    "broken base64 in a nested message": _multi(
        b"mixed", _PLAIN, _part(b"message/rfc822", b"QUJDR!", b"Content-Transfer-Encoding: base64")
    ),
    "multipart empty": _multi(b"mixed"),
    "boundary with blanks": _multi(b"mixed", _PLAIN, boundary=b"a b c"),
    "boundary reused inside": _multi(b"mixed", _multi(b"alternative", _PLAIN, _HTML, head=b""), _PDF),
    "boundary is empty": _HEAD + b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\nhello\r\n----\r\n',
    "boundary prefix of another": _multi(
        b"mixed", _multi(b"alternative", _PLAIN, _HTML, boundary=b"edge1", head=b""), _PDF
    ),
    "content type nonsense": _text(b"body\r\n", b"nonsense"),
    "content type empty": _text(b"body\r\n", b""),
    "content type twice": _HEAD + b"Content-Type: text/html\r\nContent-Type: text/plain\r\n\r\n<p>hi</p>\r\n",
    "content type of 1990": _text(b"body\r\n", b"text"),
    "nested 40": _nested(40, b"deep\r\n"),
    "nested 300": _nested(300, b"deep\r\n"),
    "nested 3000": _nested(3_000, b"deep\r\n"),
    "messages in messages 60": _rfc822(60),
    "messages in messages 600": _rfc822(600),
    "five thousand parts": _multi(b"mixed", *([_part(b"text/plain", b"x")] * 5_000)),
    "many boundaries": _HEAD + b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n" * 20_000,
    # file names
    "file name RFC 2231": _multi(
        b"mixed",
        _part(b"application/pdf", b"x", b"Content-Disposition: attachment; filename*=utf-8''%C3%BCber%20uns.pdf"),
    ),
    "file name continued": _multi(
        b"mixed",
        _part(
            b"application/pdf",
            b"x",
            b"Content-Disposition: attachment;\r\n filename*0*=koi8-r''%D0%D2%C9;\r\n filename*1*=%D7%C5%D4;\r\n"
            b" filename*2=.pdf",
        ),
    ),
    "file name encoded word": _multi(b"mixed", _part(b'application/pdf; name="=?utf-8?q?=C3=BCber.pdf?="', b"x")),
    "file name raw 8-bit": _multi(b"mixed", _part('application/pdf; name="über.pdf"'.encode("latin-1"), b"x")),
    "file name with path": _multi(
        b"mixed",
        _part(b"application/pdf", b"x", b'Content-Disposition: attachment; filename="..\\\\..\\\\etc/passwd.pdf"'),
    ),
    "file name right to left": _multi(
        b"mixed", _part(b"application/pdf", b"x", 'Content-Disposition: attachment; filename="a\u202efdp.exe"'.encode())
    ),
    "file name long": _multi(
        b"mixed",
        _part(b"application/pdf", b"x", b'Content-Disposition: attachment; filename="' + b"n" * 5_000 + b'.pdf"'),
    ),
    "file name empty": _multi(
        b"mixed", _part(b"application/pdf", b"x", b'Content-Disposition: attachment; filename=""')
    ),
    "file name RFC 2231 broken": _multi(
        b"mixed",
        _part(b"application/pdf", b"x", b"Content-Disposition: attachment; filename*1=b; filename*x=''%; filename*=q"),
    ),
    # protocol look-alikes: these bytes must never be read as IMAP
    "looks like IMAP": _text(b"* 1 FETCH (UID 1 BODY[] {5}\r\n)\r\nA1 OK done\r\n* BYE\r\n{100000}\r\n+ idling\r\n"),
    "ends like a literal": _text(b"{10}"),
    "dots alone": _text(b".\r\n..\r\n.\r\n"),
}
