"""HTML of mail: made safe to show, and turned into text.

`sanitize_html` keeps what mail looks like and nothing that acts: no scripts, style sheets, forms, frames or event
handlers. Nothing is fetched when the result is shown, because fetching tells the sender who read it and when: the
address of a remote image moves from `src` to `data-remote-src`, where a client that asked its user may put it back;
`cid:` images (parts of the message itself) and small `data:` images stay. Links open nothing in the opener's name
(`rel="noopener noreferrer nofollow"`).
"""

from __future__ import annotations

import html
import re

from mailgate.messages.charsets import clean

_TAGS = frozenset(
    """a abbr address article aside b bdi bdo big blockquote br caption center cite code col colgroup dd del details dfn
    div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hr i img ins kbd li main mark nav ol p pre q rp
    rt ruby s samp section small span strike strong sub summary sup table tbody td tfoot th thead time tr tt u ul var
    wbr""".split()
)
_GENERAL = {"align", "valign", "dir", "lang", "title", "style", "width", "height", "bgcolor"}
_ATTRIBUTES: dict[str, set[str]] = {
    "*": _GENERAL,
    "a": {"href", "name"},
    "img": {"src", "alt", "border", "hspace", "vspace"},
    "font": {"color", "face", "size"},
    "table": {"border", "cellpadding", "cellspacing", "summary"},
    "td": {"colspan", "rowspan", "nowrap"},
    "th": {"colspan", "rowspan", "nowrap", "scope"},
    "col": {"span"},
    "colgroup": {"span"},
    "ol": {"start", "type"},
    "ul": {"type"},
    "li": {"value", "type"},
    "blockquote": {"type"},
    "bdo": {"dir"},
    "time": {"datetime"},
    "del": {"datetime"},
    "ins": {"datetime"},
}
# properties that can't name an address and can't cover the page that shows the mail
_STYLES = frozenset(
    """background-color border border-bottom border-bottom-color border-bottom-style border-bottom-width border-collapse
    border-color border-left border-left-color border-left-style border-left-width border-radius border-right
    border-right-color border-right-style border-right-width border-spacing border-style border-top border-top-color
    border-top-style border-top-width border-width clear color direction display float font-family font-size font-style
    font-variant font-weight height letter-spacing line-height margin margin-bottom margin-left margin-right margin-top
    max-height max-width min-height min-width overflow-wrap padding padding-bottom padding-left padding-right
    padding-top table-layout text-align text-decoration text-indent text-transform unicode-bidi vertical-align
    white-space width word-break word-spacing word-wrap""".split()
)
_DATA_IMAGE = re.compile(r"data:image/(?:png|jpe?g|gif|webp);base64,", re.IGNORECASE)
_STYLE_ADDRESS = re.compile(r"url\s*\(|expression\s*\(|image-set|@import|\\", re.IGNORECASE)
# what nh3 writes: every attribute in double quotes, quotes and ampersands inside escaped
_WRITTEN_TAG = re.compile(r"""<([a-z][a-z0-9]*)((?:\s++[^\s"=<>/]++(?:="[^"]*+")?)*+)\s*+/?>""")
_WRITTEN_ATTRIBUTE = re.compile(r'(\s++)([^\s"=<>/]++)="([^"]*+)"')
_OWN_IMAGE = re.compile(r"\s*(?:cid|data):", re.IGNORECASE)
_DEEPEST = 200
_GROWTH, _MORE = 10, 10_000
_MOST_TAGS = 20_000
_REPEATED = 500_000
_REFERENCES = 5_000_000_000
_ATTRIBUTES_SQUARED = 500_000_000
_FORMATTING = frozenset("a b big code em font i nobr s small strike strong tt u".split())
_TAG_TO_ITS_END = re.compile(r"</?[a-zA-Z][^>]*")
_MAYBE_VALUES = (re.compile(r'(?==[ \t\n\f\r]*+"([^"]*+))'), re.compile(r"(?==[ \t\n\f\r]*+'([^']*+))"))
_SEPARATORS = " \t\n\f\r/\"'"
_ANY_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())


def sanitize_html(source: str) -> str:
    """HTML that may be put into a page (inside an element of its own). Pure; never raises; see the module's text. Its
    words alone, where so many elements stand inside each other, or it becomes so large, that renderers break. What
    `may_be_costly` takes minutes and gigabytes at worst: see `mailgate.reading.html`.
    """
    import nh3  # of no use to who only imports

    source = clean(source)
    safe = nh3.clean(
        source,
        tags=set(_TAGS),
        clean_content_tags={
            "script",
            "style",
            "head",
            "title",
            "iframe",
            "object",
            "noscript",
            "template",
            "svg",
            "math",
        },
        attributes=_ATTRIBUTES,
        attribute_filter=_filter,
        url_schemes={"http", "https", "mailto", "tel", "cid", "data"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        filter_style_properties=set(_STYLES),
        strip_comments=True,
    )
    if len(safe) > _GROWTH * len(source) + _MORE or _deepest(safe) > _DEEPEST:
        return as_words(source)
    return _WRITTEN_TAG.sub(_park_remote, safe) if "<img" in safe else safe


def as_words(source: str) -> str:
    """HTML of its words alone, for what would cost too much to lay out. Linear in the length; never raises."""
    return "<pre>" + html.escape(html_to_text(clean(source))) + "</pre>"


def _filter(tag: str, attribute: str, value: str) -> str | None:
    if attribute in ("href", "src") and value.lstrip().lower().startswith("data:"):
        return value if tag == "img" and _DATA_IMAGE.match(value.lstrip()) else None
    if attribute == "style" and _STYLE_ADDRESS.search(value):
        return None
    return value


def _park_remote(tag: re.Match[str]) -> str:
    return _WRITTEN_ATTRIBUTE.sub(_park_attribute, tag[0]) if tag[1] == "img" else tag[0]


def _park_attribute(attribute: re.Match[str]) -> str:
    blank, name, value = attribute.groups()
    if name != "src" or _OWN_IMAGE.match(value):
        return attribute[0]
    return f'{blank}data-remote-src="{value}"'


def may_be_costly(source: str) -> bool:
    """Whether `sanitize_html` may take more than about a second of it, counted in one look, without parsing.

    What HTML's rules make of tags that do not fit together costs the square of their number: elements in a table but in
    none of its cells are put before it, each behind a look through all that are there; an end tag is looked for in all
    that is open. Formatting elements that are never closed are repeated in every block that follows, so that a small
    text becomes a huge one; character references cost the parser the square of their number, and so do the attributes
    of one tag.
    """
    return (
        source.count("<") > _MOST_TAGS
        or source.count("&") * len(source) > _REFERENCES
        or _repeated(source) > _REPEATED
        or _attributes_squared(source) > _ATTRIBUTES_SQUARED
    )


def _repeated(source: str) -> int:
    """How many elements may be repeated, and how often."""
    tags = 0
    unclosed: dict[str, int] = {}
    for closing, name in _ANY_TAG.findall(source):
        tags += 1
        name = name.lower()
        if name in _FORMATTING:
            unclosed[name] = unclosed.get(name, 0) + (-1 if closing else 1)
    return tags * sum(max(0, count) for count in unclosed.values())


def _deepest(safe: str) -> int:
    """How many elements stand inside each other in what nh3 wrote."""
    depth = deepest = 0
    if safe.count("<") > _DEEPEST:
        for closing, name in _ANY_TAG.findall(safe):
            if name not in _VOID:
                depth += -1 if closing else 1
                deepest = max(deepest, depth)
    return deepest


def _attributes_squared(source: str) -> int:
    """The sum of the squares of how many attributes each tag has, or more, wherever comments and scripts begin and end.

    Before each attribute stands a blank, a slash or a quote. A tag ends at the next ">" that stands in no value.
    """
    if (most := _separators(source) ** 2) <= _ATTRIBUTES_SQUARED:
        return most
    told = list(source)
    for value in _MAYBE_VALUES:
        for start, end in (found.span(1) for found in value.finditer(source) if ">" in found[1]):
            told[start:end] = source[start:end].replace(">", "-")
    return sum(_separators(tag) ** 2 for tag in _TAG_TO_ITS_END.findall("".join(told)))


def _separators(text: str) -> int:
    return sum(map(text.count, _SEPARATORS))


_HIDDEN = re.compile(
    r"<!--(?:.*?-->|.*\Z)|<(script|style|head|title|template|svg|noscript)\b(?:.*?</\1\s*>|.*\Z)|<[!?][^>]*(?:>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_BREAK = re.compile(
    r"<(?:br|/?(?:p|div|tr|table|h[1-6]|ul|ol|dl|dt|dd|blockquote|pre|hr|section|article|header|footer|address|center))\b[^>]*(?:>|\Z)",
    re.IGNORECASE,
)
_ITEM = re.compile(r"<li\b[^>]*(?:>|\Z)", re.IGNORECASE)
_CELL = re.compile(r"</t[dh]\s*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^>]*(?:>|\Z)")
# zero-width and filler characters that newsletters put behind their preview text
_FILLER = re.compile("[\u00ad\u034f\u061c\u115f\u17b4\u17b5\u180e\u200b-\u200f\u2060-\u2064\ufeff\u2007]+")
_BLANKS = re.compile(r"[ \t\xa0]+")
_LINES = re.compile(r"\n{3,}")


def html_to_text(source: str) -> str:
    """The words of an HTML text in reading order, blocks on lines of their own. Linear in the length; never raises."""
    text = _HIDDEN.sub(" ", source)
    text = _SPACE.sub(" ", text)
    text = _ITEM.sub("\n- ", text)
    text = _BREAK.sub("\n", text)
    text = _CELL.sub(" ", text)
    text = _TAG.sub("", text)
    if "&" in text:
        text = clean(html.unescape(text))
    text = _FILLER.sub("", text) if not text.isascii() else text
    text = _BLANKS.sub(" ", text)
    text = "\n".join(line.strip() for line in text.split("\n"))
    return _LINES.sub("\n\n", text).strip()


def text_to_html(text: str) -> str:
    """Plain text as HTML: escaped, its line ends kept."""
    return '<div style="white-space: pre-wrap">' + html.escape(text) + "</div>"
