"""What the documentation names exists, and what exists is named."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from mailgate.metrics import TABLE
from mailgate.settings import each
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
                assert name in settings, code
        for variable in re.findall(r"MAILGATE_[A-Z]+__[A-Z_]+", code):
            assert variable.removeprefix("MAILGATE_").lower().replace("__", ".") in settings, code


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_metrics_that_are_named_exist(path: Path) -> None:
    names = {f"mailgate_{metric.name}" for metric in TABLE}
    for code in code_of(path):
        for name in re.findall(r"mailgate_[a-z_]+", code):
            assert name in names, code


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


def test_no_index_address_and_no_machine_path_in_the_project() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix in (".txt", ".toml", ".md", ".yaml", ".py", ""):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not re.search(r"--(extra-)?index-url|--find-links|files\.python" + r"hosted", text), name


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in targets:
        assert f"make {target}" in shown
