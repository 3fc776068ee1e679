"""Types of values in requests and answers. The store knows integers for time and text without NUL; the edge is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from mailgate.clock import Instant, from_rfc3339, to_rfc3339
from mailgate.ids import ID_PATTERN


@dataclass(frozen=True, slots=True)
class Matching:
    """For `Annotated[str, …]`: text of this pattern; what does not match is told in words, not by the pattern."""

    pattern: str
    otherwise: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Checked after the other bounds."""
        wanted = re.compile(self.pattern)

        def check(value: str) -> str:
            if wanted.fullmatch(value) is None:
                raise PydanticCustomError("string_pattern_mismatch", self.otherwise)
            return value

        return AfterValidator(check).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """With the pattern, for programs."""
        return {**handler(schema), "pattern": self.pattern}


# But for "." and "..", which clients take out of a path before they send it (RFC 3986 §5.2.4). pydantic's engine has no
# look-ahead.
TENANT_PATTERN = r"^(?:[A-Za-z0-9._-]{3,64}|[A-Za-z0-9_-][A-Za-z0-9._-]?|\.[A-Za-z0-9_-])$"
_NAME = "write 1 to 64 letters, digits, dots, hyphens and underscores, but not `.` or `..`"
_ENTITY_ID = r"^(?:[^\x00]{3,}|[^\x00.][^\x00]?|\.[^\x00.])$"
# PostgreSQL has no NUL in text, and no person types one.
_NO_NUL = r"^[^\x00]*$"
# RFC 3339 needs a year of four digits; the first and last days are left out, so that no zone leads beyond.
_FIRST = from_rfc3339("0001-01-02T00:00:00Z")
_LAST = from_rfc3339("9999-12-30T00:00:00Z")


def _instant(value: object) -> Instant:
    if not isinstance(value, str):
        raise ValueError("a time is text as RFC 3339 has it, e.g. 2026-01-31T00:00:00Z")  # noqa: TRY004 - becomes a 422
    try:
        at = from_rfc3339(value)
    except ValueError:
        raise ValueError("this is no time; write it as RFC 3339 has it, e.g. 2026-01-31T00:00:00Z") from None
    return min(max(at, _FIRST), _LAST)


_TIME_SCHEMA = WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T09:30:00Z"]})

Time: TypeAlias = Annotated[Instant, PlainSerializer(to_rfc3339, return_type=str), _TIME_SCHEMA]
"""An instant in an answer: RFC 3339 in UTC."""
TimeIn: TypeAlias = Annotated[Instant, BeforeValidator(_instant), _TIME_SCHEMA]
"""An instant in a request: RFC 3339 with any offset."""

ObjectId: TypeAlias = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
TenantId: TypeAlias = Annotated[
    str, Matching(TENANT_PATTERN, _NAME), Field(description="the CRM's own name for it", examples=["acme"])
]
EntityType: TypeAlias = Annotated[
    str,
    Matching(TENANT_PATTERN, _NAME),
    Field(description="lead, contact, company, deal, quote, invoice, task, …", examples=["deal"]),
]
EntityId: TypeAlias = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Matching(_ENTITY_ID, "write no NUL, and not `.` or `..`, which clients take out of a path"),
    Field(description="the CRM's id of the record; any text but `.` and `..`, percent-encoded", examples=["D-1042"]),
]


def text(most: int, least: int = 1) -> StringConstraints:
    """For `Annotated[str, …]`: text without NUL of `least` to `most` characters."""
    return StringConstraints(min_length=least, max_length=most, pattern=_NO_NUL)


def one_of(schema: dict[str, Any], names: Sequence[str]) -> None:
    """Let a body's JSON schema say that exactly one of these fields is given, and is not null."""
    fields = schema["properties"]
    others = [name for name in schema.get("required", []) if name not in names]
    kinds = []
    for name in names:
        mine = {key: value for key, value in fields.items() if key == name or key not in names}
        kind = {key: value for key, value in fields[name].items() if key not in ("anyOf", "default")}
        mine[name] = kind | next(choice for choice in fields[name]["anyOf"] if choice.get("type") != "null")
        kinds.append({"type": "object", "properties": mine, "required": [*others, name], "additionalProperties": False})
    for word in ("type", "properties", "required", "additionalProperties"):
        schema.pop(word, None)
    schema["oneOf"] = kinds


class Body(BaseModel):
    """Base of JSON that clients send: a field that is not known is an error, since a typo must not pass silently;
    true is no number, 1 is not true, and neither is text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, value: object) -> object:
        """JSON has one kind of number: 993.0 is the integer 993 (JSON Schema, validation §6.1.1)."""
        if not isinstance(value, dict):
            return value
        return {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in value.items()}


class Parameters(BaseModel):
    """Base of query parameters, where everything is text at first; unknown ones are errors too."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Answer(BaseModel):
    """Base of what clients get."""

    model_config = ConfigDict(frozen=True)
