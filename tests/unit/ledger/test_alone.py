"""The folder, copied alone: one command, no configuration, nothing of the gateway, exit codes that tell."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import retention.ledger
from retention.ledger.note import Signer
from tests.ledger_samples import every_type
from tests.unit.ledger.conftest import SIGNER, Exporter, sign

FOLDER = Path(retention.ledger.__file__).parent
VKEY = SIGNER.verifier.vkey


class Auditor:
    """Somebody with a copy of the folder and Python, elsewhere."""

    def __init__(self, home: Path) -> None:
        self.home = home
        shutil.copytree(FOLDER, home / "ledger", ignore=shutil.ignore_patterns("__pycache__"))

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "ledger", *map(str, arguments)]
        environment = {"PYTHONPATH": str(self.home), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture
def auditor(tmp_path: Path) -> Auditor:
    return Auditor(tmp_path / "auditor")


def test_verify_and_its_exit_codes(auditor: Auditor, exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    path = exported(leaves)
    done = auditor.run("verify", path, "--vkey", VKEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok: 600 leaves of mail.example.com/purge/t-7f3a")
    key_file = tmp_path / "key"
    key_file.write_text(VKEY + "\n")
    assert auditor.run("verify", path, "--vkey", VKEY, "--jobs", 2).stdout == done.stdout
    told: dict[str, Any] = json.loads(auditor.run("verify", path, "--vkey", f"@{key_file}", "--json").stdout)
    assert (told["verdict"], told["exit_code"], told["size"]) == ("ok", 0, 600)
    (path / "tile/entries/001").unlink()
    assert auditor.run("verify", path, "--vkey", VKEY).returncode == 6
    (path / "tile/entries/001").write_bytes((path / "tile/entries/000").read_bytes())
    done = auditor.run("verify", path, "--vkey", VKEY)
    assert done.returncode == 3
    assert done.stdout.startswith("invalid: tile/0/001: the hash of leaf 256 does not fit")


def test_a_key_of_another_log_is_said_to_be_that(auditor: Auditor, exported: Exporter, leaves: list[bytes]) -> None:
    other = Signer("mail.example.com/purge/t-other", b"o" * 32).verifier
    done = auditor.run("verify", exported(leaves[:3]), "--vkey", other.vkey)
    assert done.returncode == 3
    assert f"signed by '{SIGNER.name}' ({SIGNER.verifier.id.hex()}), not by the key that was given, " in done.stdout
    assert f"'{other.name}' ({other.id.hex()})" in done.stdout


def test_wrong_usage_is_exit_code_1(auditor: Auditor, exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves[:3])
    assert auditor.run().returncode == 1
    assert auditor.run("verify", path).returncode == 1
    assert auditor.run("verify", path, "--vkey", "nonsense").returncode == 1
    missing = auditor.run("verify", path, "--vkey", "@/nowhere")
    assert missing.returncode == 1
    assert missing.stderr == "python -m ledger: --vkey: /nowhere can't be read: No such file or directory\n"
    assert auditor.run("verify", "/nowhere", "--vkey", VKEY).returncode == 1
    assert auditor.run("--help").returncode == 0


def test_replay_consistency_and_proofs(
    auditor: Auditor, exported: Exporter, leaves: list[bytes], tmp_path: Path
) -> None:
    path = exported(leaves)
    done = auditor.run("replay", path, "--vkey", VKEY)
    judged = "ok: 571 purges in 3 runs, each due, none pinned, none held"
    lost = "1 lost when a backup was restored (0 pinned, 0 held)"
    assert (done.returncode, done.stdout.split("\n")[0]) == (0, f"{judged}; {lost}")
    old = tmp_path / "kept"
    old.write_bytes(sign(leaves[:300]))
    assert auditor.run("consistency", old, path, "--vkey", VKEY).returncode == 0
    old.write_bytes(sign([*leaves[1:300], leaves[0]]))
    done = auditor.run("consistency", old, path, "--vkey", VKEY)
    assert (done.returncode, done.stdout.split(":")[0]) == (4, "diverged")
    proof = auditor.run("prove", path, 17)
    assert proof.returncode == 0
    (tmp_path / "p.tlog-proof").write_text(proof.stdout)
    done = auditor.run("check-proof", tmp_path / "p.tlog-proof", "--vkey", VKEY)
    assert (done.returncode, done.stdout.split("\n")[0]) == (
        0,
        "ok: leaf 17 is in the log mail.example.com/purge/t-7f3a of 600 leaves",
    )
    assert auditor.run("prove", path, 600).returncode == 1
    broken = exported([*every_type()][11:14], "broken")
    assert auditor.run("replay", broken, "--vkey", VKEY).returncode == 5


def test_it_imports_the_standard_library_and_cryptography_only() -> None:
    allowed = sys.stdlib_module_names | {"cryptography"}
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, f"{file.name} reaches outside the folder"
            assert {name.partition(".")[0] for name in names} <= allowed, file.name
