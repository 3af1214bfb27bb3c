"""Settings of a server: where they come from, what they are, that all are documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.serve.settings import ENVIRONMENT_PREFIX, NAMES, Settings, default_of, load

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def settings_file(directory: Path, text: str) -> str:
    path = directory / "server.toml"
    path.write_text(text)
    return str(path)


def test_arguments_win_over_variables_and_those_over_the_file(tmp_path: Path) -> None:
    file = settings_file(tmp_path, 'port = 1\nhost = "a"\nowner_email = "a@b"\n')
    environment = {"HOLDFAST_SERVER_PORT": "2", "HOLDFAST_SERVER_HOST": "b", "OTHER": "x"}
    found = load(file, environment, {"port": 3, "host": None})
    assert (found.port, found.host, found.owner_email) == (3, "b", "a@b")


def test_kinds_of_values(tmp_path: Path) -> None:
    file = settings_file(
        tmp_path,
        "embedded_agent = false\n"
        'agent_roots = ["/root", "/data"]\n'
        'master_key_file = "keys/master"\n'
        '[region_options]\naccess_key_id = "A"\npath_style = false\n',
    )
    found = load(file, {"HOLDFAST_SERVER_TRUSTED_PROXIES": "10.0.0.0/8, 192.168.1.1"})
    assert found.embedded_agent is False
    assert found.agent_roots == ("/root", "/data")
    assert found.master_key == str(tmp_path / "keys" / "master")
    assert found.region_options == {"access_key_id": "A", "path_style": False}
    assert [str(each) for each in found.proxy_networks] == ["10.0.0.0/8", "192.168.1.1/32"]
    options = load(None, {"HOLDFAST_SERVER_REGION_OPTIONS": '{"region": "x"}'}).region_options
    assert options == {"region": "x"}
    assert load(None, {"HOLDFAST_SERVER_EMBEDDED_AGENT": "no"}).embedded_agent is False


def test_what_is_not_set_lies_in_the_data_directory() -> None:
    found = load(None, {}, {"data_directory": "/d"})
    assert found.database == "sqlite:////d/holdfast.db"
    assert found.master_key == "/d/master.key"
    assert found.first_location == "/d/objects"
    assert load(None, {"HOLDFAST_SERVER_DATABASE_URL": "postgresql://h/x"}).database.startswith("p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("porst = 1", "Did you mean 'port'"),
        ("[server]\nport = 1", "'server', which is no setting"),
        ('port = "1"', "must be a whole number"),
        ("port = true", "must be a whole number"),
        ("port = 70000", "0 to 65535"),
        ('embedded_agent = "yes"', "must be true or false"),
        ('agent_roots = "root"', "must be a list"),
        ('agent_roots = ["root"]', "begin with /"),
        ('public_url = "backup.example.org"', "http:// or https://"),
        ('trusted_proxies = ["everybody"]', "addresses or networks"),
        ('log_format = "xml"', "one of auto, json, console"),
        ('owner_email = "admin"', "e-mail address"),
        ("region_options = 1", "must be a table"),
        ("request_burst = 0", "give 1 or more"),
        ("port", "is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load(settings_file(tmp_path, text), {})


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("HOLDFAST_SERVER_PROT", "Did you mean 'port'"),
        ("HOLDFAST_SERVER_port", "no setting"),
    ],
)
def test_a_variable_that_is_no_setting_is_an_error(variable: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(None, {variable: "1"})


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load("/nowhere/server.toml", {})


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", REFERENCE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a setting is documented twice"
    return dict(rows)


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    assert set(documented()) == set(NAMES)
    assert ENVIRONMENT_PREFIX in REFERENCE.read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_documented(name: str) -> None:
    default = default_of(name)
    if default in ("", (), {}) or name == "task_slots":
        return  # the text says what is done instead
    shown = (
        {True: "true", False: "false"}.get(default, default)
        if isinstance(default, bool)
        else default
    )
    listed = ", ".join(shown) if isinstance(shown, tuple) else str(shown)
    assert f"`{listed}`" == documented()[name]


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
