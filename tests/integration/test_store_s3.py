"""The S3 store against a real Ceph gateway, through a network and services that fail."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flaky_proxy import Act, FlakyProxy, Plan, Request, flaky_proxy
from radosgw import Radosgw

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from holdfast.model.finding import Finding
from holdfast.store.cloud import CloudPlace, CloudStore
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore
from holdfast.store.retry import Retry, RetryingStore

MEBIBYTE = 1024 * 1024


@pytest.fixture
def proxy(radosgw: Radosgw) -> Iterator[FlakyProxy]:
    with flaky_proxy(radosgw.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def options(radosgw: Radosgw) -> StoreOptions:
    return StoreOptions(access_key_id=radosgw.access_key, secret_access_key=radosgw.secret_key)


@pytest.fixture
def bucket(radosgw: Radosgw) -> str:
    return radosgw.make_bucket()


class Line:
    """A store behind the proxy, which retries without waiting and counts its retries."""

    def __init__(self, proxy: FlakyProxy, bucket: str, options: StoreOptions) -> None:
        self.retries: list[Retry] = []
        self.findings: list[Finding] = []
        place = CloudPlace("s3", bucket, "repo", proxy.endpoint_url)
        self.cloud = CloudStore(place, options, self.findings.append)
        self.store = RetryingStore(
            self.cloud, attempts=5, sleep=lambda _seconds: None, report=self.retries.append
        )
        # From here on the service is known to honour conditions; see CloudStore.
        self.store.create("proof", b"proof")


@pytest.fixture
def line(proxy: FlakyProxy, bucket: str, options: StoreOptions) -> Iterator[Line]:
    line = Line(proxy, bucket, options)
    yield line
    line.store.close()


def first(count: int, method: str, act: Act) -> Plan:
    """A plan that strikes the first `count` requests of one HTTP method."""
    numbers = itertools.count()
    return lambda request: act if request.method == method and next(numbers) < count else None


def direct(radosgw: Radosgw, bucket: str) -> dict[str, bytes]:
    """Everything that the bucket holds, read by another client past the proxy."""
    client = radosgw.client()
    try:
        found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {
            item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            for item in found
        }
    finally:
        client.close()


FAILURES = [
    Act("cut_request"),
    Act("lose_answer"),
    Act("answer", 503, "SlowDown"),
    Act("answer", 500, "InternalError"),
    Act("answer", 429, "TooManyRequests"),
]


@pytest.mark.parametrize("act", FAILURES, ids=lambda act: f"{act.kind}-{act.status}")
def test_a_create_gets_through_and_stores_once(
    line: Line, proxy: FlakyProxy, radosgw: Radosgw, bucket: str, act: Act
) -> None:
    data = os.urandom(3 * MEBIBYTE)
    proxy.plan = first(2, "PUT", act)
    line.store.create("data/ab/one", data)
    assert [retry.method for retry in line.retries] == ["create", "create"]
    assert direct(radosgw, bucket) == {"repo/proof": b"proof", "repo/data/ab/one": data}
    with pytest.raises(ObjectExists):
        line.store.create("data/ab/one", data)


def test_a_lost_answer_does_not_hide_a_conflict(
    line: Line, proxy: FlakyProxy, bucket: str, options: StoreOptions
) -> None:
    line.store.create("config", b"theirs")
    proxy.plan = first(1, "PUT", Act("lose_answer"))
    with pytest.raises(ObjectExists):
        line.store.create("config", b"mine")
    assert line.store.read("config") == b"theirs"


@pytest.mark.parametrize(
    "act",
    [Act("cut_answer"), *FAILURES[1:]],
    ids=lambda act: f"{act.kind}-{act.status}",
)
def test_reads_sizes_and_listings_get_through(line: Line, proxy: FlakyProxy, act: Act) -> None:
    data = os.urandom(3 * MEBIBYTE)
    line.store.create("data/ab/one", data)
    proxy.plan = first(2, "GET", act)
    assert line.store.read("data/ab/one") == data
    assert len(line.retries) == 2
    proxy.plan = first(2, "GET", act)
    assert line.store.read("data/ab/one", 1_000_000, 1_500_000) == data[1_000_000:2_500_000]
    assert len(line.retries) == 4
    proxy.plan = first(2, "GET", act)
    assert sorted(info.key for info in line.store.list("")) == ["data/ab/one", "proof"]
    assert len(line.retries) == 6
    if act.kind != "cut_answer":
        proxy.plan = first(2, "HEAD", act)
        assert line.store.size("data/ab/one") == len(data)
        assert len(line.retries) == 8


def test_a_listing_that_breaks_at_a_later_page_yields_each_object_once(
    line: Line, proxy: FlakyProxy
) -> None:
    names = [f"index/{number:04}" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: line.store.create(name, b""), names))
    proxy.plan = lambda request: (
        Act("cut_answer")
        if "continuation-token" in request.path and len(line.retries) < 2
        else None
    )
    assert sorted(info.key for info in line.store.list("index/")) == names
    assert len(line.retries) == 2


@pytest.mark.parametrize("act", FAILURES[1:4], ids=lambda act: f"{act.kind}-{act.status}")
def test_a_delete_gets_through(line: Line, proxy: FlakyProxy, act: Act) -> None:
    line.store.create("locks/a", b"1")
    proxy.plan = first(2, "DELETE", act)
    line.store.delete("locks/a")
    assert len(line.retries) == 2
    with pytest.raises(ObjectNotFound):
        line.store.read("locks/a")


def test_a_slow_answer_is_given_up_and_asked_for_again(
    proxy: FlakyProxy, bucket: str, options: StoreOptions
) -> None:
    line = Line(proxy, bucket, replace(options, timeout_seconds=6, stall_timeout_seconds=1.5))
    data = os.urandom(MEBIBYTE)
    line.store.create("data/ab/one", data)
    proxy.plan = first(1, "GET", Act("delay", seconds=3))
    assert line.store.read("data/ab/one") == data
    assert line.retries
    assert all("no answer in time" in retry.error.message for retry in line.retries)
    # A slow upload is let be for longer: the service is silent until it has everything.
    before = len(line.retries)
    proxy.plan = first(1, "PUT", Act("delay", seconds=2.5))
    line.store.create("data/ab/two", data)
    assert len(line.retries) == before
    proxy.plan = first(1, "PUT", Act("delay", seconds=9))
    line.store.create("data/ab/three", data)
    assert len(line.retries) > before
    assert line.store.read("data/ab/three") == data
    line.store.close()


def test_it_gives_up_after_its_attempts_and_says_so(line: Line, proxy: FlakyProxy) -> None:
    proxy.plan = first(1000, "PUT", Act("answer", 503, "SlowDown"))
    with pytest.raises(StoreUnavailable, match=r"503 SlowDown.*Gave up after 5 attempts"):
        line.store.create("config", b"x")
    assert len(line.retries) == 4


def test_many_threads_over_a_bad_line(
    line: Line, proxy: FlakyProxy, radosgw: Radosgw, bucket: str
) -> None:
    kinds = [Act("lose_answer"), None, Act("answer", 503), None, Act("cut_answer"), None, None]

    def plan(request: Request) -> Act | None:
        act = kinds[request.number % len(kinds)]
        # Half of an answer that has no body is a whole one.
        return (
            None
            if act is not None and act.kind == "cut_answer" and request.method != "GET"
            else act
        )

    proxy.plan = plan
    contents = {f"data/{number:02}/x": os.urandom(50_000 + number) for number in range(60)}
    store = RetryingStore(line.cloud, attempts=30, sleep=lambda _seconds: None)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.create(key, contents[key]), contents))
        assert list(pool.map(store.read, contents)) == list(contents.values())
    expected = {f"repo/{key}": data for key, data in contents.items()}
    assert direct(radosgw, bucket) == {"repo/proof": b"proof", **expected}


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (Act("answer", 403, "AccessDenied"), (StoreDenied, "policy")),
        (Act("answer", 403, "ObjectLocked"), (StoreDenied, "object lock or retention")),
        (Act("answer", 403, "RetentionPolicyNotMet"), (StoreDenied, "object lock or retention")),
        (Act("answer", 409, "BlobImmutableDueToPolicy"), (StoreDenied, "object lock or retention")),
        (Act("answer", 301, "PermanentRedirect"), (StoreDenied, "AWS_DEFAULT_REGION")),
        (Act("answer", 400, "AuthorizationHeaderMalformed"), (StoreDenied, "AWS_DEFAULT_REGION")),
        (Act("answer", 400, "ExpiredToken"), (StoreDenied, "expired")),
        (Act("answer", 403, "RequestTimeTooSkewed"), (StoreDenied, "clock")),
        (Act("answer", 403, "QuotaExceeded"), (StoreFull, "quota")),
        (Act("answer", 507, "XMinioStorageFull"), (StoreFull, "full")),
        (Act("answer", 501, "NotImplemented"), (StoreError, "does not know")),
        (Act("answer", 400, "InvalidRequest"), (StoreError, "400 InvalidRequest")),
    ],
    ids=lambda value: value.code if isinstance(value, Act) else "",
)
def test_refusals_say_what_to_do_and_are_not_repeated(
    line: Line,
    proxy: FlakyProxy,
    radosgw: Radosgw,
    act: Act,
    expected: tuple[type[HoldfastError], str],
) -> None:
    kind, words = expected
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: line.store.create("config", b"x"),
        "DELETE": lambda: line.store.delete("config"),
        "GET": lambda: line.store.read("config"),
    }
    for method, call in calls.items():
        proxy.plan = first(1000, method, act)
        _is_refused(call, line, radosgw, kind, words)


def _is_refused(
    call: Callable[[], object], line: Line, radosgw: Radosgw, kind: type[HoldfastError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert type(caught.value) is kind
    assert line.retries == []
    assert radosgw.secret_key not in caught.value.message
    assert radosgw.access_key not in caught.value.message


def test_two_conditional_uploads_that_meet_are_repeated_without_doubt(
    line: Line, proxy: FlakyProxy
) -> None:
    proxy.plan = first(2, "PUT", Act("answer", 409, "ConditionalRequestConflict"))
    line.store.create("config", b"x")
    # Nothing was written by a refused one, so this is no failed attempt of a retry ...
    assert line.retries == []
    proxy.plan = first(2, "PUT", Act("answer", 409, "ConditionalRequestConflict"))
    # ... and equal content by somebody else remains a conflict.
    with pytest.raises(ObjectExists):
        line.store.create("config", b"x")
    assert line.retries == []


def test_a_wrong_secret(radosgw: Radosgw, bucket: str, options: StoreOptions) -> None:
    wrong = replace(options, secret_access_key="wrongsecret")
    _is_denied(f"s3:{radosgw.endpoint_url}/{bucket}", wrong, "SignatureDoesNotMatch")


def test_an_unknown_access_key(radosgw: Radosgw, bucket: str, options: StoreOptions) -> None:
    unknown = replace(options, access_key_id="UNKNOWNKEY")
    _is_denied(f"s3:{radosgw.endpoint_url}/{bucket}", unknown, "InvalidAccessKeyId")


def _is_denied(location: str, options: StoreOptions, code: str) -> None:
    store = open_store(location, options, environment={})
    for act in (
        lambda: store.create("config", b"x"),
        lambda: store.read("config"),
        lambda: store.size("config"),
        lambda: list(store.list("keys/")),
        lambda: store.delete("config"),
    ):
        with pytest.raises(StoreDenied, match=f"access key.*{code}|{code}.*access key") as caught:
            act()
        assert "wrongsecret" not in caught.value.message
        assert "UNKNOWNKEY" not in caught.value.message
    store.close()


def test_a_missing_bucket_is_not_an_empty_one(radosgw: Radosgw, options: StoreOptions) -> None:
    store = open_store(f"s3:{radosgw.endpoint_url}/no-such-bucket", options, environment={})
    for act in (
        lambda: store.create("config", b"x"),
        lambda: store.read("config"),
        lambda: store.size("config"),
        lambda: list(store.list("keys/")),
        lambda: store.delete("config"),
    ):
        with pytest.raises(StoreError, match=r"there is no such bucket\. Create it") as caught:
            act()
        assert type(caught.value) is StoreError
    store.close()


@pytest.mark.parametrize(
    ("location", "kind", "words"),
    [
        ("s3:http://127.0.0.1:1/bucket", StoreUnavailable, "refused"),
        ("s3:https://host.invalid/bucket", StoreUnavailable, "host name cannot be resolved"),
    ],
)
def test_an_endpoint_that_is_not_there(
    options: StoreOptions, location: str, kind: type[HoldfastError], words: str
) -> None:
    store = open_store(location, replace(options, attempts=1), environment={})
    with pytest.raises(kind, match=f"{words}.*Check the endpoint"):
        store.read("config")
    store.close()


def test_an_endpoint_that_does_not_speak_tls(radosgw: Radosgw, options: StoreOptions) -> None:
    location = f"s3:{radosgw.endpoint_url.replace('http:', 'https:')}/bucket"
    store = open_store(location, options, environment={})
    with pytest.raises(StoreError, match="does not speak TLS"):
        store.read("config")
    store.close()


def test_explicit_credentials_never_mix_with_the_environment(
    radosgw: Radosgw, bucket: str, options: StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = open_store(f"s3:{radosgw.endpoint_url}/{bucket}", replace(options, attempts=1))
    store.create("config", b"x")
    with pytest.raises(ObjectExists):
        store.create("config", b"x")
    assert store.read("config") == b"x"
    store.close()


def test_credentials_from_the_environment(radosgw: Radosgw, bucket: str) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": radosgw.access_key,
        "AWS_SECRET_ACCESS_KEY": radosgw.secret_key,
        "AWS_ENDPOINT_URL": radosgw.endpoint_url,
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    store = open_store(f"s3://{bucket}", environment=environment)
    store.create("config", b"x")
    assert store.read("config") == b"x"
    store.close()


def test_a_service_that_honours_conditions_is_asked_once(line: Line, proxy: FlakyProxy) -> None:
    assert line.findings == []
    proxy.seen.clear()
    line.store.create("locks/a", b"1")
    with pytest.raises(ObjectExists):
        line.store.create("locks/a", b"2")
    assert [request.method for request, _ in proxy.seen] == ["PUT", "PUT"]


@pytest.fixture
def locked(radosgw: Radosgw) -> str:
    return radosgw.make_bucket(object_lock=True)


def versions(radosgw: Radosgw, bucket: str) -> list[str]:
    client = radosgw.client()
    try:
        return [item["Key"] for item in client.list_object_versions(Bucket=bucket)["Versions"]]
    finally:
        client.close()


def test_a_bucket_with_object_lock(radosgw: Radosgw, locked: str, options: StoreOptions) -> None:
    findings: list[Finding] = []
    location = f"s3:{radosgw.endpoint_url}/{locked}"
    store = open_store(location, options, environment={}, report_finding=findings.append)
    data = os.urandom(MEBIBYTE)
    store.create("config", b"one")
    store.create("data/ab/x", data)
    store.create("locks/a", b"lock")
    # This Ceph ignores conditions where there are versions. That is said, once, and a
    # repeated create is still refused.
    assert [finding.code for finding in findings] == ["create_not_exclusive"]
    for key in ("config", "data/ab/x", "locks/a"):
        with pytest.raises(ObjectExists):
            store.create(key, b"two")
    assert store.read("config") == b"one"
    assert store.read("data/ab/x") == data
    # A delete hides the object; the retained version stays, and costs, until it expires.
    store.delete("locks/a")
    store.delete("locks/a")
    with pytest.raises(ObjectNotFound):
        store.read("locks/a")
    assert sorted(info.key for info in store.list("")) == ["config", "data/ab/x"]
    assert versions(radosgw, locked).count("locks/a") == 1
    store.close()


def test_opening_such_a_bucket_again_overwrites_nothing(
    radosgw: Radosgw, locked: str, options: StoreOptions
) -> None:
    location = f"s3:{radosgw.endpoint_url}/{locked}"
    store = open_store(location, options, environment={})
    store.create("config", b"one")
    before = versions(radosgw, locked)
    again: ObjectStore = open_store(location, options, environment={})
    with pytest.raises(ObjectExists):
        again.create("config", b"two")
    assert store.read("config") == b"one"
    assert versions(radosgw, locked) == before
    store.close()
    again.close()


def test_uploads_without_a_checksum_can_be_had(
    radosgw: Radosgw, bucket: str, options: StoreOptions
) -> None:
    for number, checksum in enumerate(("", "sha256", "crc64nvme")):
        store = open_store(
            f"s3:{radosgw.endpoint_url}/{bucket}/{number}",
            replace(options, checksum=checksum),
            environment={},
        )
        store.create("config", b"x")
        assert store.read("config") == b"x"
        store.close()
