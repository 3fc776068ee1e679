"""Generated mail that looks like a company's: threads with replies, attachments, newsletters, notices, many languages.

Everything follows from the seed and `now`: the same arguments give the same bytes. All persons and domains are
invented.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from mailgate.demo import files, mime
from mailgate.demo.phrases import COMPANIES, ENGLISH, NEWSLETTERS, NOTICES, VOICES, Voice

SECOND = 1_000_000
DAY = 86_400 * SECOND


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    address: str
    voice: Voice = ENGLISH


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as it lies on a mail server. `received_at` is its INTERNALDATE: microseconds, UTC, whole seconds."""

    raw: bytes
    received_at: int
    folder: str = "INBOX"
    flags: frozenset[str] = frozenset()
    subject: str = ""


@dataclass(frozen=True, slots=True)
class _Letter:
    """What was written before it is a message."""

    sender: Person
    recipient: Person
    subject: str
    text: str
    message_id: str
    references: tuple[str, ...]
    written_at: int


def account_mail(owner: str, address: str, *, seed: int, count: int, now: int) -> list[Mail]:
    """`count` messages of the account `address`, in several folders, received 0 to 120 days before `now`, oldest
    first; at least one of them younger than a day.

    About half are threads between the owner and customers, the rest newsletters, notices and single mails.
    """
    rng = random.Random(f"{seed}/{address}")
    me = Person(owner, address)
    found: list[Mail] = []
    while len(found) < count:
        age = rng.triangular(0.02, 120.0, 0.02) if rng.random() < 0.7 else rng.uniform(0.02, 120.0)
        began_at = now - int(age * DAY)
        kind = rng.random()
        if kind < 0.12:
            found.append(_newsletter(rng, me, began_at))
        elif kind < 0.22:
            found.append(_notice(rng, me, began_at))
        elif kind < 0.25:
            found.append(_spam(rng, me, began_at))
        else:
            found.extend(_thread(rng, me, began_at, now))
    found = found[:count]
    found.sort(key=lambda mail: mail.received_at)
    return found


def _customer(rng: random.Random) -> Person:
    # English is the company's language; the others share the rest.
    voice = ENGLISH if rng.random() < 0.45 else rng.choice(VOICES)
    name = rng.choice(voice.people)
    _, domain = rng.choice(COMPANIES)
    plain = unicodedata.normalize("NFKD", name.lower().replace("ß", "ss").replace("ł", "l").replace("ı", "i"))
    local = ".".join("".join(char for char in part if "a" <= char <= "z") for part in plain.split())
    # Names in other scripts have an address in Latin letters all the same.
    return Person(name, f"{local if local.strip('.') else f'office.{voice.language}'}@{domain}", voice)


def _fill(rng: random.Random, voice: Voice, template: str, name: str) -> str:
    amount = f"{rng.randrange(120, 98_000):,}.{rng.randrange(100):02d} {rng.choice(('EUR', 'USD', '€', 'CHF'))}"
    return template.format(
        n=rng.randrange(1_000, 99_999),
        amount=amount,
        day=rng.choice(voice.days),
        count=rng.randrange(2, 60),
        name=name.split()[0],
    )


def _message_id(rng: random.Random, address: str) -> str:
    return f"<{rng.getrandbits(64):016x}.{rng.randrange(10**6)}@{address.rpartition('@')[2]}>"


def _paragraphs(rng: random.Random, voice: Voice, sentences: tuple[str, ...], sender: Person, recipient: Person) -> str:
    chosen = [sentence for sentence in sentences if rng.random() < 0.8] or [sentences[0]]
    lines = [_fill(rng, voice, sentence, recipient.name) for sentence in chosen]
    greeting = _fill(rng, voice, voice.greeting, recipient.name)
    return "\n\n".join([greeting, *lines, f"{voice.closing}\n{sender.name}\n"])


def _opening(rng: random.Random, me: Person, written_at: int, *, inward: bool = True) -> _Letter:
    other = _customer(rng)
    voice = other.voice
    sender, recipient = (other, me) if inward else (me, other)
    subject, sentences = rng.choice(voice.matters)
    return _Letter(
        sender,
        recipient,
        _fill(rng, voice, subject, recipient.name),
        _paragraphs(rng, voice, sentences, sender, recipient),
        _message_id(rng, sender.address),
        (),
        written_at,
    )


def _reply(rng: random.Random, to: _Letter, written_at: int) -> _Letter:
    other = to.sender if to.sender.voice is not ENGLISH else to.recipient
    voice = other.voice
    sentences = rng.choice(voice.matters)[1]
    quoted = "\n".join(f"> {line}".rstrip() for line in to.text.splitlines())
    wrote = voice.wrote.format(day=rng.choice(voice.days), who=to.sender.name)
    prefix = f"{voice.reply}: "
    return _Letter(
        to.recipient,
        to.sender,
        to.subject if to.subject.startswith(prefix) else prefix + to.subject,
        f"{_paragraphs(rng, voice, sentences[:3], to.recipient, to.sender)}\n{wrote}\n{quoted}\n",
        _message_id(rng, to.recipient.address),
        (*to.references, to.message_id),
        written_at,
    )


def _thread(rng: random.Random, me: Person, began_at: int, now: int) -> list[Mail]:
    letter = _opening(rng, me, began_at, inward=rng.random() < 0.7)
    out: list[Mail] = []
    folder = rng.choices(("INBOX", "Archive", "Projects/Spring launch", "Kunden/Größe & Zoë"), (78, 10, 8, 4))[0]
    while letter.written_at < now:
        sent = letter.sender is me
        flags = {r"\Seen"} if sent or rng.random() < 0.75 else set()
        if rng.random() < 0.06:
            flags.add(r"\Flagged")
        if out and not sent:
            out[-1] = _answered(out[-1])
        out.append(_render(rng, letter, folder="Sent" if sent else folder, flags=frozenset(flags)))
        if rng.random() < 0.42:
            break
        letter = _reply(rng, letter, letter.written_at + int(rng.lognormvariate(11.0, 1.2)) * SECOND)
    return out


def _answered(mail: Mail) -> Mail:
    return Mail(mail.raw, mail.received_at, mail.folder, mail.flags | {r"\Answered"}, mail.subject)


def _render(rng: random.Random, letter: _Letter, *, folder: str, flags: frozenset[str]) -> Mail:
    """The letter as a message, some with HTML and an attachment."""
    voice = letter.sender.voice if letter.sender.voice is not ENGLISH else letter.recipient.voice
    charset = rng.choices(voice.charsets, [4, *[2] * (len(voice.charsets) - 1)])[0]
    q = charset.startswith(("iso-8859", "windows")) and rng.random() < 0.7
    boundary = f"=_{rng.getrandbits(96):024x}"
    encoding = rng.choice(("7bit", "8bit", "quoted-printable", "base64"))
    content = mime.text_part(letter.text, charset, encoding=encoding)
    if rng.random() < 0.55:
        how = rng.choice(("quoted-printable", "base64"))
        html = mime.text_part(_html(letter.text), charset, subtype="html", encoding=how)
        content = mime.multipart("alternative", (content, html), boundary + "a")
    if rng.random() < 0.22:
        if rng.random() < 0.25:
            attached = files.picture_of(rng, rng.randrange(20_000, 300_000))
        else:
            attached = files.any_file(rng, voice, letter.subject)
        content = mime.multipart("mixed", (content, attached), boundary + "m")
    delay = rng.randrange(1, 40) * SECOND
    return Mail(
        mime.message(_headers(rng, letter, charset, q=q), content),
        # A few minutes of travel at most; whole seconds, because INTERNALDATE has no more.
        (letter.written_at + delay) // SECOND * SECOND,
        folder,
        flags,
        letter.subject,
    )


def _headers(rng: random.Random, letter: _Letter, charset: str, *, q: bool) -> list[bytes]:
    written = datetime.fromtimestamp(letter.written_at // SECOND, UTC)
    headers = [
        mime.field("Return-Path", f"<{letter.sender.address}>"),
        mime.field(
            "Received",
            f"from mx.{letter.sender.address.rpartition('@')[2]} by mail.{letter.recipient.address.rpartition('@')[2]}"
            f" with ESMTPS id {rng.getrandbits(40):010x}; {format_datetime(written)}",
        ),
        mime.field("Date", format_datetime(written)),
        mime.field("From", mime.mailbox(letter.sender.name, letter.sender.address, charset, q=q)),
        mime.field("To", mime.mailbox(letter.recipient.name, letter.recipient.address, charset, q=q)),
    ]
    if rng.random() < 0.02:
        # Some programs write what they should encode: bytes above 127 in a header.
        headers.append(b"Subject: " + letter.subject.encode(mime.usable(letter.subject, charset)))
    else:
        headers.append(mime.field("Subject", mime.words(letter.subject, charset, q=q)))
    if rng.random() >= 0.01:  # a scanner's mail has no Message-ID
        headers.append(mime.field("Message-ID", letter.message_id))
    if letter.references:
        headers.append(mime.field("In-Reply-To", letter.references[-1]))
        headers.append(mime.field("References", " ".join(letter.references)))
    return headers


def _html(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body = "".join(f"<p>{paragraph}</p>\n" for paragraph in escaped.replace("\n\n", "\0").split("\0"))
    style = "body { font-family: sans-serif; font-size: 14px; color: #222 }"
    return f"<!DOCTYPE html>\n<html><head><style>{style}</style></head>\n<body>\n{body}</body></html>\n"


def _newsletter(rng: random.Random, me: Person, sent_at: int) -> Mail:
    title, domain, stories = rng.choice(NEWSLETTERS)
    story = rng.choice(stories)
    sender = Person(title, f"news@{domain}")
    letter = _Letter(sender, me, f"{title}: {story}", "", _message_id(rng, sender.address), (), sent_at)
    items = rng.sample(stories, k=len(stories))
    text = "\n\n".join(f"* {item}\n  https://{domain}/{rng.randrange(10**6)}" for item in items)
    rows = "".join(
        f'<tr><td style="padding:16px"><h2>{item}</h2>'
        f"<p>{_fill(rng, ENGLISH, rng.choice(ENGLISH.matters)[1][0], 'you')}</p>"
        f'<a href="https://{domain}/{rng.randrange(10**6)}">Read on</a></td></tr>\n'
        for item in items * 3
    )
    pixel = f'<img src="https://{domain}/open/{rng.getrandbits(48):x}.gif" width="1" height="1">'
    logo = f"logo@{domain}"
    html = f'<html><body><img src="cid:{logo}"><table width="600">\n{rows}</table>{pixel}</body></html>\n'
    boundary = f"=_{rng.getrandbits(96):024x}"
    related = mime.multipart(
        "related",
        (mime.text_part(html, "utf-8", subtype="html"), files.picture(rng, "logo.png", inline_id=logo)),
        boundary + "r",
    )
    content = mime.multipart(
        "alternative", (mime.text_part(text, "us-ascii", encoding="7bit"), related), boundary + "a"
    )
    headers = _headers(rng, letter, "utf-8", q=False)
    headers.append(mime.field("List-Id", f"{title} <news.{domain}>"))
    headers.append(mime.field("List-Unsubscribe", f"<https://{domain}/unsubscribe/{rng.getrandbits(48):x}>"))
    flags = frozenset({r"\Seen"}) if rng.random() < 0.3 else frozenset[str]()
    return Mail(mime.message(headers, content), sent_at // SECOND * SECOND, "INBOX", flags, letter.subject)


def _notice(rng: random.Random, me: Person, sent_at: int) -> Mail:
    subject, address, text = rng.choice(NOTICES)
    sender = Person("", address)
    letter = _Letter(
        sender,
        me,
        _fill(rng, ENGLISH, subject, me.name),
        _fill(rng, ENGLISH, text, me.name) + "\n",
        _message_id(rng, address),
        (),
        sent_at,
    )
    headers = [*_headers(rng, letter, "us-ascii", q=False), mime.field("Auto-Submitted", "auto-generated")]
    content = mime.text_part(letter.text, "utf-8", encoding="7bit")
    return Mail(mime.message(headers, content), sent_at // SECOND * SECOND, "INBOX", frozenset(), letter.subject)


def _spam(rng: random.Random, me: Person, sent_at: int) -> Mail:
    """Badly made on purpose: a charset that nobody knows, HTML only, a Date in the future."""
    sender = Person("", f"winner{rng.randrange(10**4)}@prize-wheel.example")
    subject = rng.choice(("You have (1) unclaimed parcel", "Re: your p4yment", "Congratulations!!!"))
    letter = _Letter(sender, me, subject, "", _message_id(rng, sender.address), (), sent_at + 400 * DAY)
    html = "<html><body><script>alert(1)</script><b>Click</b> <a href='https://prize-wheel.example'>here</a></html>"
    part = mime.Part(
        (b"Content-Type: text/html; charset=x-winner-8", b"Content-Transfer-Encoding: 8bit"), html.encode()
    )
    headers = _headers(rng, letter, "us-ascii", q=False)
    return Mail(mime.message(headers, part), sent_at // SECOND * SECOND, "Junk", frozenset(), subject)
