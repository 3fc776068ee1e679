"""Each rule of the service has a test, and each test that is named exists."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.rules import RULES

ROOT = Path(__file__).parents[2]


@cache
def functions(file: str) -> frozenset[str]:
    """The tests of a file, those that are never skipped."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(
        node.name
        for node in found
        if node.name.startswith("test_") and not any("skip" in ast.unparse(mark) for mark in node.decorator_list)
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_tests_that_exist(rule: str) -> None:
    assert RULES[rule], "no test fails when this rule is broken"
    for name in RULES[rule]:
        file, _, function = name.partition("::")
        assert function in functions(file), f"{name} is not there"
    assert len(set(RULES[rule])) == len(RULES[rule])


def test_a_test_that_is_not_there_or_skipped_is_noticed() -> None:
    assert "test_nothing" not in functions("tests/unit/test_rules.py")
    assert functions("tests/unit/test_nowhere.py") == frozenset()
