"""format=flowed (RFC 3676): soft line breaks taken out again."""

from __future__ import annotations


def unflow(text: str, *, delsp: bool = False) -> str:
    """Join flowed lines of the same quote depth; `-- ` stays a signature line (§4.3), space stuffing is undone
    (§4.4).
    """
    out: list[str] = []
    open_depth = -1
    for line in text.replace("\r\n", "\n").split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        body = line[depth:]
        body = body.removeprefix(" ")
        signature = body == "-- "
        if open_depth == depth and not signature:
            out[-1] += body
        else:
            out.append((">" * depth + " " if depth else "") + body)
        if body.endswith(" ") and not signature:
            open_depth = depth
            if delsp:
                out[-1] = out[-1][:-1]
        else:
            open_depth = -1
    return "\n".join(out)
