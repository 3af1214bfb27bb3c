"""Google Cloud Storage and Azure Blob, as far as it can be seen without either of them.

No emulator of theirs is installed with the tests, so a server that gives their documented
answers stands in: what is proven is which request is sent and what its answer means to us.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from flaky_proxy import Act, FlakyProxy, flaky_proxy

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore

SECRET = "c2VjcmV0"


@pytest.fixture
def proxy() -> Iterator[FlakyProxy]:
    with flaky_proxy("http://127.0.0.1:1") as proxy:
        yield proxy


@pytest.fixture(params=["gs", "az"])
def store(request: pytest.FixtureRequest, proxy: FlakyProxy) -> Iterator[ObjectStore]:
    if request.param == "gs":
        key = {
            "gcs_base_url": proxy.endpoint_url,
            "disable_oauth": True,
            "client_email": "",
            "private_key": SECRET,
            "private_key_id": "",
        }
        options = StoreOptions(
            endpoint_url=proxy.endpoint_url, google_service_account_key=json.dumps(key), attempts=1
        )
        store = open_store("gs:bucket:/repo", options, environment={})
    else:
        options = StoreOptions(
            endpoint_url=proxy.endpoint_url,
            azure_account_name="account",
            azure_account_key=SECRET,
            attempts=1,
        )
        store = open_store("azure:bucket:/repo", options, environment={})
    yield store
    store.close()


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "create": lambda store: store.create("config", b"x"),
    "read": lambda store: store.read("config"),
    "size": lambda store: store.size("config"),
    "list": lambda store: list(store.list("keys/")),
    "delete": lambda store: store.delete("config"),
}


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        ("create", (412, "PreconditionFailed"), ObjectExists),
        ("create", (409, "BlobAlreadyExists"), ObjectExists),
        ("read", (404, "NoSuchKey"), ObjectNotFound),
        ("read", (404, "BlobNotFound"), ObjectNotFound),
        ("size", (404, "BlobNotFound"), ObjectNotFound),
        *[(method, (404, "NoSuchBucket"), StoreError) for method in CALLS],
        *[(method, (404, "ContainerNotFound"), StoreError) for method in CALLS],
        *[(method, (403, "AuthenticationFailed"), StoreDenied) for method in CALLS],
        *[(method, (401, "InvalidAuthenticationInfo"), StoreDenied) for method in CALLS],
        *[(method, (503, "ServerBusy"), StoreUnavailable) for method in CALLS],
        ("delete", (409, "BlobImmutableDueToPolicy"), StoreDenied),
        ("delete", (403, "RetentionPolicyNotMet"), StoreDenied),
    ],
)
def test_an_answer_means_the_same_everywhere(
    store: ObjectStore, proxy: FlakyProxy, method: str, answer: tuple[int, str], expected: type
) -> None:
    proxy.plan = lambda _request: Act("answer", *answer)
    with pytest.raises(HoldfastError) as caught:
        CALLS[method](store)
    assert type(caught.value) is expected
    assert SECRET not in caught.value.message
    assert proxy.seen


def _batch(status: int) -> Act:
    """Azure's answer to a batch of one deletion: the status of each lies in the body."""
    body = (
        "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n"
        f"HTTP/1.1 {status} because.\r\nx-ms-request-id: 1\r\n\r\n\r\n--b--\r\n"
    )
    content_type = "multipart/mixed; boundary=b"
    return Act("answer", 202, content_type=content_type, body=body.encode())


@pytest.mark.parametrize(
    ("status", "expected"),
    [(403, StoreDenied), (409, StoreDenied), (503, StoreUnavailable), (400, StoreError)],
)
@pytest.mark.parametrize("store", ["az"], indirect=True)
def test_a_deletion_that_azure_refuses_within_a_batch(
    store: ObjectStore, proxy: FlakyProxy, status: int, expected: type[HoldfastError]
) -> None:
    proxy.plan = lambda _request: _batch(status)
    with pytest.raises(expected) as caught:
        store.delete("config")
    assert type(caught.value) is expected


def test_deleting_what_is_missing_is_no_error(store: ObjectStore, proxy: FlakyProxy) -> None:
    proxy.plan = lambda request: (
        _batch(404) if request.method == "POST" else Act("answer", 404, "NoSuchKey")
    )
    store.delete("config")
    assert len(proxy.seen) == 1


def test_a_create_is_one_request(store: ObjectStore, proxy: FlakyProxy) -> None:
    proxy.plan = lambda _request: Act("answer", 412, "PreconditionFailed")
    with pytest.raises(ObjectExists):
        store.create("data/ab/large", bytes(20 * 1024 * 1024))
    assert [request.method for request, _ in proxy.seen] == ["PUT"]
