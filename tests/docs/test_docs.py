"""What the documentation names exists, and what exists is named."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from mailgate.api.application import ROUTERS
from mailgate.cli.commands import app
from mailgate.events.types import TYPES
from mailgate.metrics import TABLE
from mailgate.settings import each
from mailgate.tenants.stripe_objects import TENANT
from tests.docs.generate import PAGES, ROOT

PROSE = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(path: Path) -> list[str]:
    """Everything that stands as code: inline pieces and the lines of fenced blocks."""
    text = path.read_text(encoding="utf-8")
    blocks = [line for block in _FENCE.findall(text) for line in block.splitlines()[1:-1]]
    return blocks + _CODE.findall(_FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_links_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        resolved = (path.parent / file).resolve() if file else path
        assert resolved.exists(), target
        if anchor and resolved.suffix == ".md":
            assert anchor in anchors(resolved), target


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for code in code_of(path):
        for target in re.findall(r"(?:^|[\s;&])make ([a-z-]+)", code):
            assert target in targets, code


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_settings_that_are_named_exist(path: Path) -> None:
    settings = {name for name, _ in each()}
    sections = {name.partition(".")[0] for name in settings if "." in name}
    for code in code_of(path):
        for name in re.findall(r"(?<![\w./-])([a-z]+\.[a-z_]+)(?![\w./-])", code):
            if name.partition(".")[0] in sections and not name.endswith((".toml", ".py", ".md")):
                assert name in settings or name in TYPES, code
        for variable in re.findall(r"MAILGATE_[A-Z]+__[A-Z_]+", code):
            assert variable.removeprefix("MAILGATE_").lower().replace("__", ".") in settings, code


_NO_METRICS = frozenset({TENANT})
"""What begins like a metric: the name of the tenant in Stripe's metadata."""


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_metrics_that_are_named_exist(path: Path) -> None:
    names = {f"mailgate_{metric.name}" for metric in TABLE}
    for code in code_of(path):
        for name in re.findall(r"mailgate_[a-z_]+", code):
            assert name in names or name in _NO_METRICS, code


def command_at(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `words` call, and the words that are its arguments."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        found = command.commands.get(words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_commands_and_their_options_exist(path: Path) -> None:
    for code in code_of(path):
        called = re.match(r"(?:\$ |ExecStart=)?(?:\S+/)?mailgate ((?:[a-z].*))", code)
        if called:
            command, arguments = command_at(shlex.split(called[1].split("#")[0]))
            options = {name for parameter in command.params for name in parameter.opts}
            for argument in arguments:
                if argument.startswith("--"):
                    assert argument.partition("=")[0] in options, code


def route_patterns() -> list[re.Pattern[str]]:
    paths = [re.sub(r":\w+}", "}", route.path) for router in ROUTERS for route in router.routes]
    return [re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))) for path in {*paths, "/docs", "/openapi.json"}]


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_routes_that_are_named_exist(path: Path) -> None:
    patterns = route_patterns()
    for code in code_of(path):
        for named in re.findall(r"(?:(?<=[\s`(])|^|(?<=\$base)|(?<=8025))(/(?:v1/)?[a-z][\w{}/.-]*)", code):
            whole = f"/v1{named}" if "$base" in code else named
            if whole.startswith(("/v1/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi")):
                assert any(pattern.fullmatch(whole) for pattern in patterns), f"{whole} in {code}"


@pytest.mark.parametrize("path", [path for path in sorted((ROOT / "config").iterdir()) if path.is_file()], ids=ids)
def test_variables_in_deploy_files_are_settings(path: Path) -> None:
    settings = {name for name, _ in each()} | {"admin_token", "master_key", "config"}
    for variable in re.findall(r"\bMAILGATE_[A-Z_]+", path.read_text(encoding="utf-8")):
        assert variable.removeprefix("MAILGATE_").lower().replace("__", ".") in settings, variable


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.name not in ("index.md", "routes.md"):
            assert f"({page.name})" in index


def test_plan_tables_say_what_plans_toml_says() -> None:
    plans = tomllib.loads((ROOT / "config/plans.toml").read_text(encoding="utf-8"))["plans"]
    concepts = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \| \d+ days \|", concepts, re.MULTILINE))
    days = dict(re.findall(r"^\| `(\w+)` \| (?:yes|no) \| (\d+) days \|", concepts, re.MULTILINE))
    assert {name: {"yes": True, "no": False}[said] for name, said in rows.items()} == {
        name: plan["sync"] for name, plan in plans.items()
    }
    assert {name: int(said) for name, said in days.items()} == {
        name: plan["retention_days"] for name, plan in plans.items()
    }


@pytest.mark.parametrize("path", sorted((ROOT / "config/lock").glob("*.txt")), ids=ids)
def test_locks_name_hashes_and_no_address(path: Path) -> None:
    requirements = re.split(r"\n(?! )", path.read_text(encoding="utf-8").strip())
    assert len(requirements) > (50 if path.stem in ("run", "dev") else 0)
    for requirement in requirements:
        assert re.match(r"[a-z0-9._-]+(\[[a-z]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement
        assert "://" not in requirement


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in targets:
        assert f"make {target}" in shown
