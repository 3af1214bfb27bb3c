"""Which server a command speaks to, and which one of its things a person means."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_server import SdkServer, client, sdk_server

from holdfast.cli import choose
from holdfast.cli.main import run
from holdfast.cli.server import (
    Login,
    find_server,
    forget_login,
    keep_login,
    login_file,
    read_login,
)
from holdfast.cli.verbs import labels, shown
from holdfast.errors import NotFound, NotSignedIn, UsageError
from holdfast.sdk.client import Client

__all__ = ["client", "sdk_server"]

pytestmark = pytest.mark.xdist_group("sdk")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def test_a_login_is_kept_for_its_owner_only(home: dict[str, str]) -> None:
    path = keep_login(home, Login("https://a", "hf_1", "id"))
    keep_login(home, Login("https://b", "hf_2", "id"))
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    assert read_login(home) == Login("https://b", "hf_2", "id")
    assert [each.name for each in Path(path).parent.iterdir()] == ["login.json"]
    assert (forget_login(home), forget_login(home)) == (True, False)
    assert read_login(home) is None
    assert login_file({**home, "XDG_CONFIG_HOME": "/c"}) == "/c/holdfast/login.json"


def test_options_win_over_variables_and_those_over_the_login(
    home: dict[str, str], tmp_path: Path
) -> None:
    keep_login(home, Login("https://a", "hf_login"))
    file = tmp_path / "token"
    file.write_text("hf_file\n")
    variables = {**home, "HOLDFAST_URL": "https://b/", "HOLDFAST_TOKEN": "hf_variable"}
    assert find_server(None, None, home).token == "hf_login"
    assert find_server(None, None, variables) == Login("https://b", "hf_variable")
    assert find_server("https://c", str(file), variables) == Login("https://c", "hf_file")


def test_a_token_goes_to_no_other_server_than_its_own(home: dict[str, str]) -> None:
    keep_login(home, Login("https://a", "hf_login"))
    with pytest.raises(NotSignedIn, match="no token for https://b"):
        find_server("https://b", None, home)


def test_without_a_login_it_is_said_what_to_do(home: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NotSignedIn, match="holdfast login"):
        find_server(None, None, home)
    with pytest.raises(UsageError, match="cannot be read"):
        find_server("https://a", str(tmp_path / "none"), home)
    Path(keep_login(home, Login("https://a", "t"))).write_text("{}")
    with pytest.raises(UsageError, match="remove that file"):
        read_login(home)


def test_values_for_people() -> None:
    assert shown(None) == ""
    assert shown(value=True) == "yes"
    assert shown({"b": 1, "a": ["x", "y"]}) == "a=x, y, b=1"
    assert labels(["a=b=c"]) == {"a": "b=c"}
    with pytest.raises(UsageError):
        labels(["nothing"])


@pytest.fixture
def signed_in(
    sdk_server: SdkServer, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Client]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HOLDFAST_URL", sdk_server.url)
    monkeypatch.setenv("HOLDFAST_TOKEN", client.tokens.create("cli", ["read"]).secret)
    monkeypatch.setattr("holdfast.cli.main._catch_signals", lambda: None)
    return iter([client])


def test_lists_say_when_there_is_more(
    signed_in: Iterator[Client], capsys: pytest.CaptureFixture[str]
) -> None:
    client = next(signed_in)
    client.members.add("c@example.org", "viewer")
    assert run(["member", "list", "--limit", "1"]) == 0
    told = capsys.readouterr().out
    assert "admin@localhost" in told
    assert "there are more" in told
    assert run(["member", "list", "--json"]) == 0
    assert '"members": [' in capsys.readouterr().out


def test_what_is_refused_is_an_error_with_its_status(
    signed_in: Iterator[Client], capsys: pytest.CaptureFixture[str]
) -> None:
    del signed_in
    assert run(["token", "list"]) == 21
    assert "administer" in capsys.readouterr().err
    assert run(["host", "show", "nobody", "--json"]) == 4
    assert '"error": "not_found"' in capsys.readouterr().err


def test_things_are_meant_by_id_beginning_or_name(client: Client) -> None:
    account = client.accounts.own()
    region = next(client.regions.list())
    assert choose.region_id(client, "") == region.id
    assert choose.region_id(client, region.name) == region.id
    assert choose.region_id(client, region.id[:8]) == region.id
    assert choose.host_id(client, account.id) == account.id  # an id is not looked up
    with pytest.raises(NotFound, match="host list"):
        choose.host_id(client, "nobody")
    with pytest.raises(NotFound):
        choose.snapshot_of(client, "latest")
    client.regions.create("twin", "s3://a")
    with pytest.raises(UsageError, match="several"):
        choose.region_id(client, "")
