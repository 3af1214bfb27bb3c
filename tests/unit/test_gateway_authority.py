"""How the gateway asks the control plane: words, how long answers are kept, refusals."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from holdfast.errors import (
    Forbidden,
    HoldfastError,
    NotFound,
    NotReady,
    NotSignedIn,
    ServerUnavailable,
    TooManyRequests,
)
from holdfast.gateway.authority import Grant, GrantedRight
from holdfast.gateway.http_authority import HttpAuthority

ANSWER = {
    "account_id": "acc",
    "principal": {"kind": "token", "id": "1"},
    "rights": ["append", "read"],
    "put_only": False,
    "repository_id": "rep",
    "location": "s3:https://s3.example/bucket/region/",
    "options": {"access_key_id": "key", "secret_access_key": "hidden secret"},
    "password": "hidden password",
    "manifest_id": "ab" * 32,
    "captured_path": "/root/models",
    "snapshot_name": "nightly",
    "snapshot_status": "COMPLETED",
}


class Plane:
    """A control plane as far as the wire goes: what it was asked, and what it says next."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.headers: list[httpx.Headers] = []
        self.say: Callable[[], httpx.Response] = lambda: httpx.Response(200, json=ANSWER)
        self.now = 100.0
        self.authority = HttpAuthority(
            "http://plane",
            "own",
            clock=lambda: self.now,
            transport=httpx.MockTransport(self._answer),
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/api/v1/gateway/resolve")
        self.asked.append(json.loads(request.content))
        self.headers.append(request.headers)
        return self.say()

    def says(self, status: int, headers: dict[str, str] | None = None, **problem: Any) -> None:
        self.say = lambda: httpx.Response(status, json=problem, headers=headers)


@pytest.fixture
def plane() -> Plane:
    return Plane()


def test_the_question_and_the_answer(plane: Plane) -> None:
    grant = plane.authority.resolve("secret", snapshot_id="snap")
    assert plane.asked == [{"credential": "secret", "snapshot_id": "snap"}]
    assert plane.headers[0]["Authorization"] == "Bearer own"
    assert grant == Grant(
        account_id="acc",
        principal="token:1",
        rights=frozenset({"append", "read"}),
        repository_id="rep",
        location="s3:https://s3.example/bucket/region/",
        options={"access_key_id": "key", "secret_access_key": "hidden secret"},
        password="hidden password",
        manifest_id="ab" * 32,
        captured_path="/root/models",
        name="nightly",
        status="COMPLETED",
    )
    assert "hidden" not in repr(grant)
    assert grant.repository_location == "s3:https://s3.example/bucket/region/repositories/rep"


def test_an_answer_without_a_snapshot(plane: Plane) -> None:
    only = {"account_id", "principal", "rights", "put_only", "repository_id", "location", "options"}
    answer = {key: value for key, value in ANSWER.items() if key in only}
    plane.say = lambda: httpx.Response(200, json=answer)
    grant = plane.authority.resolve("secret", repository_id="rep")
    assert plane.asked == [{"credential": "secret", "repository_id": "rep"}]
    assert (grant.password, grant.manifest_id, grant.name) == (None, None, "")


def test_an_answer_is_good_for_five_seconds_and_for_its_question_only(plane: Plane) -> None:
    ask = plane.authority.resolve
    ask("secret", repository_id="rep")
    plane.now += 4.9
    ask("secret", repository_id="rep")
    assert len(plane.asked) == 1
    recall = plane.authority.recall
    assert recall("secret", repository_id="rep") == ask("secret", repository_id="rep")
    assert recall("another", repository_id="rep") is None
    assert recall("secret", snapshot_id="rep") is None
    ask("another", repository_id="rep")
    ask("secret", repository_id="other")
    ask("secret", snapshot_id="rep")
    assert len(plane.asked) == 4
    plane.now += 0.2
    assert recall("secret", repository_id="rep") is None
    plane.says(401)
    with pytest.raises(NotSignedIn):  # revoked meanwhile
        ask("secret", repository_id="rep")


def test_refusals_are_never_kept(plane: Plane) -> None:
    plane.says(404)
    for _ in range(2):
        with pytest.raises(NotFound):
            plane.authority.resolve("secret", snapshot_id="new")
    plane.say = lambda: httpx.Response(200, json=ANSWER)
    assert plane.authority.resolve("secret", snapshot_id="new").name == "nightly"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "not_signed_in", NotSignedIn),
        (401, "gateway_not_signed_in", ServerUnavailable),
        (403, "forbidden", Forbidden),
        (404, "not_found", NotFound),
        (409, "not_ready", NotReady),
        (422, "usage", NotFound),
        (429, "too_many_requests", TooManyRequests),
        (500, "unexpected", ServerUnavailable),
        (503, "database_unavailable", ServerUnavailable),
        (302, "", ServerUnavailable),
    ],
)
def test_refusals(plane: Plane, status: int, code: str, error: type[HoldfastError]) -> None:
    plane.says(status, {"Retry-After": "9"}, code=code, detail="in its own words")
    with pytest.raises(error) as caught:
        plane.authority.resolve("secret", repository_id="rep")
    if error is not ServerUnavailable:
        assert caught.value.message == "in its own words"
    if isinstance(caught.value, TooManyRequests):
        assert caught.value.retry_after_seconds == 9


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"rights": 1}', "<html>"])
def test_answers_that_are_none(plane: Plane, text: str) -> None:
    for status, error in ((200, ServerUnavailable), (403, Forbidden)):
        plane.say = lambda status=status: httpx.Response(status, text=text)  # type: ignore[misc]
        with pytest.raises(error):
            plane.authority.resolve("secret", repository_id="rep")


def test_a_lost_connection_is_tried_once_more(plane: Plane) -> None:
    answers: list[httpx.TransportError | None] = [httpx.RemoteProtocolError("closed"), None]

    def say() -> httpx.Response:
        error = answers.pop(0)
        if error is not None:
            raise error
        return httpx.Response(200, json=ANSWER)

    plane.say = say
    assert plane.authority.resolve("secret", repository_id="rep").account_id == "acc"
    answers[:] = [httpx.ConnectError("away"), httpx.ConnectError("away")]
    plane.now += 10
    with pytest.raises(ServerUnavailable):
        plane.authority.resolve("secret", repository_id="rep")


def test_many_threads_ask_once(plane: Plane) -> None:
    def say() -> httpx.Response:
        time.sleep(0.05)
        return httpx.Response(200, json=ANSWER)

    plane.say = say
    got: list[Grant] = []
    threads = [
        threading.Thread(
            target=lambda: got.append(plane.authority.resolve("s", repository_id="rep"))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plane.asked) == 1
    assert len(got) == 8


def test_put_only_leaves_nothing_but_adding() -> None:
    everything = frozenset({"append", "read", "delete"})
    grant = Grant("a", "p", everything, "r", "/x", put_only=True)
    assert [right for right in GrantedRight if grant.allows(right)] == [GrantedRight.APPEND]
    free = Grant("a", "p", everything, "r", "/x")
    assert all(free.allows(right) for right in GrantedRight)
    with pytest.raises(Forbidden):
        grant.require(GrantedRight.READ)
