"""Settings: where they come from, what is refused, and that the example file tells the truth."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path

import pytest

from mailgate.configuration import example, toml_value
from mailgate.errors import ConfigurationError
from mailgate.settings import Settings, each, load
from mailgate.store.database import async_url

EXAMPLE = Path(__file__).parents[3] / "config" / "mailgate.example.toml"


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(tmp_path: Path, text: str) -> str:
    file = tmp_path / "given.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    return caught.value.detail


def test_without_file_and_environment_the_defaults_hold() -> None:
    assert load(environ={}) == Settings()


def test_places_follow_data_dir(tmp_path: Path) -> None:
    settings = load(environ={"MAILGATE_DATA_DIR": str(tmp_path / "state")})
    assert settings.database_url == f"sqlite:///{tmp_path}/state/mailgate.db"
    assert settings.blobs_url == f"file://{tmp_path}/state/blobs"
    assert settings.keys_url == f"file://{tmp_path}/state/keys"
    assert settings.witness_dir == tmp_path / "state" / "witness"


def test_a_relative_data_dir_is_made_absolute_at_once() -> None:
    assert Settings().database_url.startswith("sqlite:////")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "given.toml"
    file.write_text("[http]\nport = 1\nhost = '192.0.2.1'\n")
    settings = load(file, {"MAILGATE_HTTP__PORT": "2"})
    assert (settings.http.port, settings.http.host) == (2, "192.0.2.1")


def test_the_file_is_found_in_the_working_directory_or_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "mailgate.toml").write_text("[http]\nport = 11\n")
    (tmp_path / "other.toml").write_text("[http]\nport = 12\n")
    assert load(environ={}).http.port == 11
    assert load(environ={"MAILGATE_CONFIG": str(tmp_path / "other.toml")}).http.port == 12


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml does not exist"):
        load(environ={"MAILGATE_CONFIG": str(tmp_path / "nowhere.toml")})


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no file"):
        load(tmp_path, {})


@pytest.mark.parametrize("written", ["127.0.0.0/8, ::1/128", '["127.0.0.0/8", "::1/128"]'])
def test_lists_in_the_environment(written: str) -> None:
    settings = load(environ={"MAILGATE_NET__ALLOW": written})
    assert settings.net.allow == (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http]\nprot = 1", "no setting http.prot; did you mean http.port?"),
        ("[htpp]\nport = 1", "no setting htpp; did you mean"),
        ("data_dri = 'x'", "no setting data_dri; did you mean data_dir?"),
        ("[http]\nport = 70000", "http.port must be a whole number (port, 0 to 65535)"),
        ("[http]\nport = 'much'", "http.port must be a whole number (port, 0 to 65535)"),
        ("[http]\nhost = ''", "http.host: String should have at least 1 character"),
        ("[http]\ndocs = 'perhaps'", "http.docs must be true or false"),
        ("[http]\npublic_url = 'crm.example'", "http.public_url must be https://host or http://host"),
        ("[http]\nstalled_s = '1m'", "http.stalled_s must be a number (seconds, 0.1 to 3600)"),
        ("[plans]\nnotice_days = ['soon']", "plans.notice_days must be a list of up to 20 whole numbers"),
        ("[net]\nallow = ['10.0.0.1/8']", "net.allow: 10.0.0.1/8 is no network; the one around it is 10.0.0.0/8"),
        ("[net]\nallow = ['10.0.0.0/33']", "net.allow: 10.0.0.0/33 is no network; write one as 10.0.0.0/8"),
        ("[net]\nallow = 3", "net.allow must be a list (networks)"),
        ("[net]\nallow = [10]", 'net.allow: networks are written as text, e.g. ["10.0.0.0/8"]'),
        ("[net]\nallow = ['10.0.0.0/8', true]", "net.allow: networks are written as text"),
        ("data_dir = ''", "data_dir: it is empty; name a directory"),
        ("[retention]\nanchor = 'sent'", "retention.anchor must be received or stored"),
        ("http = 3", "http is a table of settings, not a value"),
        ('[ledger]\nwitness = "file:///mnt/witness"', "ledger.witness is a directory, not a URL"),
        ("[sync]\nbackoff_min_s = 9\nbackoff_max_s = 8", "sync.backoff_min_s is larger than sync.backoff_max_s"),
        ("[http\nport", "can't be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    message = refused(tmp_path, text)
    assert said in message
    assert "given.toml" in message


def test_an_unknown_variable_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(ConfigurationError, match=r"MAILGATE_HTTP__PROT.*did you mean http\.port"):
        load(environ={"MAILGATE_HTTP__PROT": "1"})


def test_a_value_in_the_environment_is_blamed_on_the_environment() -> None:
    with pytest.raises(ConfigurationError, match=r"environment MAILGATE_SYNC__LEASE_S: sync\.lease_s"):
        load(environ={"MAILGATE_SYNC__LEASE_S": "0"})


@pytest.mark.parametrize("written", ["", " "])
def test_an_empty_data_dir_is_not_the_working_directory(written: str) -> None:
    with pytest.raises(ConfigurationError, match="environment MAILGATE_DATA_DIR: data_dir: it is empty"):
        load(environ={"MAILGATE_DATA_DIR": written})


def test_a_network_in_the_environment_is_text() -> None:
    with pytest.raises(ConfigurationError, match=r"environment MAILGATE_NET__ALLOW: .* written as text"):
        load(environ={"MAILGATE_NET__ALLOW": "[10]"})


def test_what_kubernetes_sets_for_a_service_named_mailgate_is_no_setting() -> None:
    environ = {
        "MAILGATE_SERVICE_HOST": "10.0.0.7",
        "MAILGATE_SERVICE_PORT": "8025",
        "MAILGATE_PORT": "tcp://10.0.0.7:8025",
        "MAILGATE_PORT_8025_TCP_ADDR": "10.0.0.7",
    }
    assert load(environ=environ) == Settings()


def test_secrets_stand_in_no_message_and_no_repr(tmp_path: Path) -> None:
    assert "hunter2" not in refused(tmp_path, "[database]\nurl = ['postgresql://u:hunter2@h/d']")
    settings = load(environ={"MAILGATE_DATABASE__URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in repr(settings)
    settings = load(environ={"MAILGATE_BILLING__STRIPE_SECRETS": "whsec_hunter2, whsec_hunter3"})
    assert settings.billing.stripe_secrets == ("whsec_hunter2", "whsec_hunter3")
    assert "hunter" not in repr(settings)
    assert "hunter" not in refused(tmp_path, "[billing]\nstripe_secrets = ['hunter2', 'short']")


@pytest.mark.parametrize("password", ["hunter2", "a/b@c:d#e?f%25g\\1 ä&=+", "%", "'\"$"])
def test_a_password_beside_the_database_url_may_be_anything(password: str) -> None:
    environ = {
        "MAILGATE_DATABASE__URL": "postgresql://mailgate@postgres/mailgate",
        "MAILGATE_DATABASE__PASSWORD": password,
    }
    settings = load(environ=environ)
    url = async_url(settings.database_url)
    assert (url.username, url.password, url.host, url.database) == ("mailgate", password, "postgres", "mailgate")
    assert password not in repr(settings)


def test_sslmode_is_what_the_driver_calls_ssl() -> None:
    url = async_url("postgresql://u@h/d?sslmode=verify-full&target_session_attrs=read-write")
    assert dict(url.query) == {"ssl": "verify-full", "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    "options", ["host=/run/postgresql&user=mailgate&password=x", "prepared_statement_cache_size=0"]
)
def test_options_that_are_needed_for_sockets_and_poolers_are_taken(options: str) -> None:
    url = async_url(f"postgresql:///mailgate?{options}")
    assert "&".join(f"{name}={value}" for name, value in url.query.items()) == options


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hunter2@h/d?sslmod=require", "the option sslmod, which is not known; there are host, "),
        ("postgresql://u:hunter2@h/d?sslmode=yes", "sslmode must be one of disable, allow, prefer, require, "),
    ],
)
def test_an_option_of_a_database_url_that_is_not_known_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as told:
        async_url(url)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["", "sqlite:///x.db", "postgresql://host/name", "postgresql://u:p@host/name", "postgresql://host/n@me"]
)
def test_a_password_for_nobody_is_refused(url: str) -> None:
    environ = {"MAILGATE_DATABASE__URL": url, "MAILGATE_DATABASE__PASSWORD": "hunter2"}
    with pytest.raises(ConfigurationError, match="password is for a user") as told:
        load(environ=environ)
    assert "hunter2" not in str(told.value)


def test_every_setting_says_what_it_does_and_every_number_its_unit_and_bounds() -> None:
    for name, field in each():
        assert field.description, name
        assert field.description.endswith("."), name
        if field.annotation in (int, float):
            extra = field.json_schema_extra
            assert isinstance(extra, dict), name
            assert extra["unit"], name
            assert {"ge", "le"} <= {rule for part in field.metadata for rule in ("ge", "le") if hasattr(part, rule)}, (
                name
            )


def test_the_example_file_is_written_from_the_settings() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example()


def test_the_example_with_every_line_in_force_equals_the_defaults(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z_]+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {
        f"{table}.{key}" if isinstance(values, dict) else table
        for table, values in tomllib.loads(text).items()
        for key in (values if isinstance(values, dict) else [""])
    } == {name for name, _ in each()}
    file = tmp_path / "all.toml"
    file.write_text(text, encoding="utf-8")
    assert load(file, {}) == Settings()


def test_a_network_is_written_as_text() -> None:
    assert toml_value((ipaddress.ip_network("10.0.0.0/8"),)) == '["10.0.0.0/8"]'
