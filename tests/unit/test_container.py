"""What can be said of the image and the compose file without building them."""

from __future__ import annotations

import re
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "config"


def test_the_program_owns_what_the_compose_file_mounts() -> None:
    """A volume takes its owner from the directory that the image has there, and is root's where there is none."""
    mounted = set(re.findall(r"- \w+:(/var/lib/mailgate/\S+)", (CONFIG / "compose.yaml").read_text()))
    made = re.search(r"install -d -o mailgate -g mailgate -m 700 (.+)", (CONFIG / "Containerfile").read_text())
    assert len(mounted) == 2
    assert made is not None
    assert mounted <= set(made[1].split())
