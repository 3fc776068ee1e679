"""What can be said of the image and the compose file without building them."""

from __future__ import annotations

import re
from pathlib import Path

from mailgate.settings import load
from mailgate.store.database import async_url

CONFIG = Path(__file__).parents[2] / "config"


def test_the_program_owns_what_the_compose_file_mounts() -> None:
    """A volume takes its owner from the directory that the image has there, and is root's where there is none."""
    mounted = set(re.findall(r"- \w+:(/var/lib/mailgate/\S+)", (CONFIG / "compose.yaml").read_text()))
    made = re.search(r"install -d -o mailgate -g mailgate -m 700 (.+)", (CONFIG / "Containerfile").read_text())
    assert len(mounted) == 2
    assert made is not None
    assert mounted <= set(made[1].split())


def test_the_password_of_the_compose_file_stands_in_no_url() -> None:
    """It may have any character, of which a URL takes apart some."""
    text = (CONFIG / "compose.yaml").read_text()
    given = dict(re.findall(r"^ +(MAILGATE_DATABASE__\w+): (.+)$", text, re.MULTILINE))
    given = {name: value.replace("${POSTGRES_PASSWORD:?set it}", "p/@#%:") for name, value in given.items()}
    url = async_url(load(environ=given).database_url)
    assert (url.username, url.password, url.host, url.database) == ("mailgate", "p/@#%:", "postgres", "mailgate")
