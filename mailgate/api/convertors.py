"""A path parameter that is any text: ids of the CRM may hold slashes and line breaks, percent-encoded."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

TEXT = "text"


class TextConvertor(Convertor[str]):
    """Everything up to the end of the path."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """As it is: the server has decoded it."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor(TEXT, TextConvertor())
