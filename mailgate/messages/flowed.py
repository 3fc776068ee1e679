"""format=flowed (RFC 3676): soft line breaks taken out again."""

from __future__ import annotations


def unflow(text: str, *, delsp: bool = False) -> str:
    """Join flowed lines of the same quote depth; `-- ` stays a signature line (§4.3), space stuffing is undone
    (§4.4).
    """
    out: list[str] = []
    paragraph: list[str] = []
    open_depth = -1
    for line in text.replace("\r\n", "\n").split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        body = line[depth:].removeprefix(" ")
        signature = body == "-- "
        if paragraph and (open_depth != depth or signature):
            out.append("".join(paragraph))
            paragraph = []
        if not paragraph and depth:
            paragraph.append(">" * depth + " ")
        flows = body.endswith(" ") and not signature
        paragraph.append(body[:-1] if flows and delsp else body)
        if flows:
            open_depth = depth
        else:
            out.append("".join(paragraph))
            paragraph = []
            open_depth = -1
    if paragraph:
        out.append("".join(paragraph))
    return "\n".join(out)
