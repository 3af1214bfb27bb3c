"""Locations and options: every form that people write, and no secret ever shown."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from holdfast.errors import HoldfastError, UsageError
from holdfast.store.cloud import CloudStore
from holdfast.store.local import LocalStore
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.retry import RetryingStore

SECRET = "verysecret"
KEYS = StoreOptions(access_key_id="accesskey", secret_access_key=SECRET, session_token="token")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/srv/repo", "/srv/repo"),
        ("local:/srv/repo", "/srv/repo"),
        ("local:/srv/a:b", "/srv/a:b"),
        ("/srv/repo/", "/srv/repo"),
        ("/srv/s3:x", "/srv/s3:x"),
    ],
)
def test_paths(location: str, path: str) -> None:
    store = open_store(location)
    assert isinstance(store, LocalStore)
    assert store.location == path


def test_a_relative_path_is_fixed_when_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    monkeypatch.chdir(first)
    store = open_store("repo")
    monkeypatch.chdir(second)
    store.create("config", b"x")
    assert (first / "repo/config").read_bytes() == b"x"
    assert store.location == str(first / "repo")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/some//prefix/", "s3://bucket/some/prefix"),
        ("s3:https://host:9000/bucket/p", "s3:https://host:9000/bucket/p"),
        ("s3:http://127.0.0.1:9000/bucket", "s3:http://127.0.0.1:9000/bucket"),
        ("s3:host/bucket/prefix", "s3:https://host/bucket/prefix"),
        ("s3:host:9000/bucket", "s3:https://host:9000/bucket"),
        ("gs://bucket/prefix", "gs://bucket/prefix"),
        ("gs:bucket:/prefix", "gs://bucket/prefix"),
        ("gs:bucket:/", "gs://bucket"),
        ("az://container/prefix", "az://container/prefix"),
        ("azure:container:/prefix", "az://container/prefix"),
    ],
)
def test_clouds(location: str, shown: str) -> None:
    environment = {"AZURE_ACCOUNT_NAME": "account", "AZURE_ACCOUNT_KEY": "a2V5"}
    store = open_store(location, KEYS, environment=environment)
    assert isinstance(store, RetryingStore)
    assert store.location == shown
    assert store.shareable
    assert not store.fork_safe
    store.close()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(name: str) -> None:
    environment = {name: "http://127.0.0.1:9000/"}
    store = open_store("s3://bucket", KEYS, environment=environment)
    assert store.location == "s3:http://127.0.0.1:9000/bucket"
    options = StoreOptions(endpoint_url="https://other", access_key_id="a", secret_access_key="b")
    store = open_store("s3://bucket", options, environment=environment)
    assert store.location == "s3:https://other/bucket"
    store = open_store("s3:https://written/bucket", options, environment=environment)
    assert store.location == "s3:https://written/bucket"


@pytest.mark.parametrize(
    "location",
    ["", "s3:", "s3://", "s3:///prefix", "s3:host", "s3:https://host", "s3:https://host/", "gs:b",
     "gs://", "azure:container", "az:", "sftp:host:/repo", "rest:host/repo", "b2:bucket",
     "https://host/bucket", "foo://bar", "s3://host:9000/bucket", "s3://s3.amazonaws.com/bucket",
     "s3://bucket/../x", "s3://bucket/a b", "s3://bucket/x?versionId=1",
     f"s3:https://user:{SECRET}@host/bucket", f"s3://user:{SECRET}@bucket/x",
     f"s3:user:{SECRET}@host/bucket", f"gs://{SECRET}@bucket"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_a_hint(location: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(location, KEYS, environment={})
    assert SECRET not in caught.value.message
    assert len(caught.value.message) > 40


@pytest.mark.parametrize(
    "options",
    [
        StoreOptions(access_key_id="a"),
        StoreOptions(secret_access_key=SECRET),
        StoreOptions(endpoint_url="host:9000"),
        StoreOptions(endpoint_url=f"https://user:{SECRET}@host"),
        StoreOptions(access_key_id="a", secret_access_key=SECRET, checksum="md4"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: StoreOptions) -> None:
    with pytest.raises(UsageError) as caught:
        open_store("s3://bucket", options, environment={})
    assert SECRET not in caught.value.message


def test_options_are_picklable_and_show_no_secret() -> None:
    options = StoreOptions(
        access_key_id="accesskey",
        secret_access_key=SECRET,
        session_token=SECRET,
        google_service_account_key=SECRET,
        azure_account_key=SECRET,
        azure_sas_token=SECRET,
    )
    assert pickle.loads(pickle.dumps(options)) == options
    assert SECRET not in repr(options)
    assert "accesskey" not in repr(options)


def test_no_secret_in_a_store_or_its_errors() -> None:
    options = StoreOptions(
        access_key_id="accesskey", secret_access_key=SECRET, session_token=SECRET, attempts=1
    )
    store = open_store("s3:http://127.0.0.1:1/bucket", options, environment={})
    with pytest.raises(HoldfastError) as caught:
        store.create("config", b"x")
    shown = caught.value.message + repr(store) + store.location + str(caught.value.as_dict())
    assert SECRET not in shown
    assert "accesskey" not in shown


def test_opening_a_path_does_not_load_the_cloud_client() -> None:
    script = (
        "import sys\n"
        "from holdfast.store.location import open_store\n"
        "open_store('/nowhere')\n"
        "print('obstore' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_a_cloud_store_is_what_the_retries_wrap() -> None:
    store = open_store("s3://bucket", KEYS, environment={})
    assert isinstance(vars(store)["_inner"], CloudStore)
