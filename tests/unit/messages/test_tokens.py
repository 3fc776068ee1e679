"""Search terms: the index and the query fold alike, in any script."""

from __future__ import annotations

import pytest

from mailgate.errors import PreconditionError
from mailgate.messages import (
    Address,
    ParsedMessage,
    Part,
    QueryTerms,
    address_terms,
    message_terms,
    query_terms,
    words,
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("Grüße aus KÖLN", ["grusse", "aus", "koln"]),
        ("naïve café", ["naive", "cafe"]),
        ("ΑΘΗΝΑ Αθήνα", ["αθηνα", "αθηνα"]),
        ("Привет, Ёлка", ["привет", "елка"]),
        ("İstanbul ﬁne", ["istanbul", "fine"]),
        ("don't O’Neill", ["dont", "oneill"]),
        ("AB-1234 v2.0", ["ab", "1234", "v2", "0"]),
        ("日本語", ["日", "本", "語", "日本", "本語"]),
        ("東京tower2", ["東", "京", "東京", "tower2"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("हिन्दी", ["हिन्दी"]),
        ("สวัสดี", None),
        ("שָׁלוֹם", ["שלום"]),
        ("مَرْحَبًا", ["مرحبا"]),
        ("", []),
        ("!!! --- ...", []),
        ("_under_score_", ["underscore"]),
        ("x" * 100, ["x" * 64]),
    ],
)
def test_words(text: str, terms: list[str] | None) -> None:
    found = list(words(text))
    if terms is not None:
        assert found == terms
    assert query_terms(text).words <= set(found)


def test_addresses() -> None:
    terms = set(address_terms([Address("Jörg Müller", "J.Mueller+news@Mail.Example.ORG"), Address("only a name", "")]))
    assert {
        "j.mueller+news@mail.example.org",
        "j.mueller+news",
        "mail.example.org",
        "mueller",
        "news",
        "example",
    } <= terms
    assert {"jorg", "muller", "only", "name"} <= terms


@pytest.mark.parametrize(
    "query", ["anna@example.org", "<Anna@Example.org>", "anna", "example.org", "@example.org", "Anna Example"]
)
def test_a_sender_is_found_by_what_people_type(query: str) -> None:
    message = ParsedMessage(from_=(Address("Anna Example", "anna@example.org"),))
    wanted = query_terms(query).words
    assert wanted
    assert wanted <= message_terms(message).from_
    assert wanted <= message_terms(message).text


def test_fields_are_apart() -> None:
    message = ParsedMessage(
        subject="offer",
        from_=(Address("", "a@x.org"),),
        to=(Address("", "b@y.org"),),
        cc=(Address("", "c@z.org"),),
        text="body words",
        parts=(Part("2", "report.pdf", "application/pdf", 1, False, None),),
    )
    terms = message_terms(message)
    assert "a@x.org" in terms.from_ - terms.to
    assert {"b@y.org", "c@z.org"} <= terms.to - terms.from_
    assert terms.subject == {"offer"}
    assert {"body", "words", "offer", "a@x.org", "c@z.org", "report", "pdf"} <= terms.text


def test_the_number_of_terms_is_bounded() -> None:
    message = ParsedMessage(subject="kept", text=" ".join(f"w{n}" for n in range(100_000)))
    terms = message_terms(message, limit=500)
    assert len(terms.text) == 500
    assert {"kept", "w0"} <= terms.text
    assert "w99999" not in terms.text


@pytest.mark.parametrize(
    ("query", "hit"), [("本語", True), ("日語", False), ("語", True), ("日本語", True), ("本", True), ("国", False)]
)
def test_unspaced_scripts_are_found_by_any_piece(query: str, hit: bool) -> None:
    terms = message_terms(ParsedMessage(text="これは日本語です")).text
    assert (query_terms(query).words <= terms) is hit


def test_a_query_without_words_is_empty() -> None:
    assert not query_terms(" -- ?! *")


@pytest.mark.parametrize(
    ("query", "found", "begun"),
    [
        ("invo*", set(), {"invo"}),
        ("paid Invo*, roof", {"paid", "roof"}, {"invo"}),
        ("“Grüß*”", set(), {"gruss"}),
        ("invo\uff0a", set(), {"invo"}),
        ("ab-123*", {"ab"}, {"123"}),
        ("don'*", set(), {"don"}),
        ("안녕*", set(), {"안녕"}),
        ("हिन्*", set(), {"हिन्"}),
        ("日*", {"日"}, set()),
        ("日本*", {"日本"}, set()),
        ("日本tow*", {"日", "本", "日本"} - {"日", "本"}, {"tow"}),
        ("Bob@oth*", set(), {"bob@oth"}),
        ("<@Other.Ex*>", set(), {"@other.ex"}),
        ("bob@*", {"bob"}, set()),
        ("*@other.example", {"other.example"}, set()),
        ("*voice", {"voice"}, set()),
    ],
)
def test_a_star_makes_a_prefix_of_the_word_before_it(query: str, found: set[str], begun: set[str]) -> None:
    assert query_terms(query) == QueryTerms(frozenset(found), frozenset(begun))


@pytest.mark.parametrize("query", ["i*", "ab*", "é1*", "회*", "roof " + "x" * 13 + "*", "bob@" + "x" * 13 + "*", "é*"])
def test_a_prefix_that_is_not_indexed_is_refused(query: str) -> None:
    with pytest.raises(PreconditionError) as refused:
        query_terms(query)
    assert refused.value.slug == "prefix_invalid"


def test_prefixes_are_kept_by_field() -> None:
    message = ParsedMessage(
        subject="Offer",
        from_=(Address("", "anna.b@x.org"),),
        to=(Address("", "carl@y.org"),),
        text="Wood",
        parts=(Part("2", "report.pdf", "application/pdf", 1, False, None),),
    )
    found = message_terms(message).prefixes
    assert found["subject"] == {"off", "offe", "offer"}
    assert {"ann", "anna", "anna.b", "anna.b@x.o", "@x.org"} <= found["from_"]
    assert "carl@" not in found["to"]
    assert {"woo", "wood", "rep", "off", "anna.b@x", "@y"} <= found["text"]
    assert not any(prefix.startswith("c") for prefix in found["from_"])


def test_the_number_of_prefixes_is_bounded() -> None:
    """Everything that a message may be full of, and still within what a `tsvector` can hold."""
    full = tuple(Address(f"name{n} of{n}", f"local{n}.part{n}@d{n}.example") for n in range(1_000))
    message = ParsedMessage(
        subject="".join(chr(0x4E00 + n) for n in range(1_000)),
        from_=full,
        to=full,
        text=" ".join(f"{n:x}word{n}" for n in range(50_000)),
        parts=tuple(Part("2", f"f{n} a{n} b{n} c{n}.pdf", "x/y", 1, False, None) for n in range(9_000)),
    )
    terms = message_terms(message)
    fields = (terms.from_, terms.to, terms.subject, terms.text, *terms.prefixes.values())
    assert len(terms.text) == 20_000
    assert len(terms.prefixes["text"]) == 20_000
    assert sum(map(len, fields)) * 16 < 1 << 20
