"""The OpenAPI document as programs read it that make clients from it: names, examples, pages, errors."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from mailgate.api import reference
from mailgate.api.examples import EXAMPLES
from mailgate.usecases.types import Body
from tests.api.conftest import Gateway
from tests.api.test_authorization import LINKED, SIGNED


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


async def test_who_asks_again_and_again_costs_nothing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MagicMock(wraps=json)
    monkeypatch.setattr(reference, "json", made)
    first, second = [(await gateway.client.get("/openapi.json")).content for _ in range(2)]
    assert first == second
    assert made.dumps.call_count == 1


@pytest.fixture
async def document(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.client.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


async def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    """Functions of clients are called by them: a verb and a thing, and each once."""
    names = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert set(names.values()) == {1}
    for _, _, operation in operations(document):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"])
        assert operation["description"]
        assert len(operation["tags"]) == 1


async def test_everything_of_v1_says_who_may_and_what_a_refusal_looks_like(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if not path.startswith("/v1/"):
            continue
        if (method.upper(), path) in SIGNED | LINKED:
            assert operation["security"] == [], path  # a signature or a link tells who asks
            continue
        assert operation["security"] == [{"token": []}], path
        refusals = {status: response for status, response in operation["responses"].items() if status[0] in "45"}
        assert {"400", "401", "403", "422", "429"} <= set(refusals)
        for response in refusals.values():
            schema = response["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


async def test_lists_are_pages_with_plain_names(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert not [name for name in schemas if not re.fullmatch(r"[A-Z][A-Za-z0-9]+", name)]
    pages = {name for name in schemas if name.endswith("Page")}
    assert {"MessagePage", "TenantPage", "PinPage"} <= pages
    for name in pages:
        assert set(schemas[name]["properties"]) == {"items", "next_cursor"}
    for _, path, operation in operations(document):
        wanted = {parameter["name"] for parameter in operation.get("parameters", [])}
        if "cursor" in wanted:
            assert "limit" in wanted, path


def bodies(base: type[Body] = Body) -> Iterator[type[Body]]:
    for made in base.__subclasses__():
        yield made
        yield from bodies(made)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_examples_are_what_is_taken(document: dict[str, Any], name: str) -> None:
    (model,) = [model for model in bodies() if model.__name__ == name]
    (example,) = document["components"]["schemas"][name]["examples"]
    model.model_validate_json(json.dumps(example))
