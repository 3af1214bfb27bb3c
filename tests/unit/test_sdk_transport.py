"""What the SDK does when a server is busy, gone, or says no: a server of scripted answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from holdfast import errors
from holdfast.errors import (
    Changed,
    CreditExhausted,
    Forbidden,
    HoldfastError,
    NotFound,
    ServerUnavailable,
    TargetError,
    TooManyRequests,
    UsageError,
)
from holdfast.model.progress import Progress
from holdfast.sdk.data import SnapshotData
from holdfast.sdk.download import Download
from holdfast.sdk.events import EventsResource
from holdfast.sdk.pages import pages
from holdfast.sdk.problem import error_of
from holdfast.sdk.record import as_document, from_json
from holdfast.sdk.transport import Transport, checked_url

Answering = Callable[[httpx.Request], httpx.Response]


class Script:
    """A server whose answers come in the order of a list; the last one again and again."""

    def __init__(self, *answers: httpx.Response | Answering | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def transport(self, attempts: int = 5) -> Transport:
        return Transport(
            "http://server",
            "hf_secret",
            attempts=attempts,
            pause=self.pauses.append,
            transport=httpx.MockTransport(self),
        )


def refusal(status: int, code: str, **headers: str) -> httpx.Response:
    document = {"status": status, "code": code, "detail": "Because.", "errors": []}
    return httpx.Response(status, json=document, headers=headers)


# Repetitions


def test_what_may_pass_is_tried_again_with_growing_pauses() -> None:
    script = Script(
        httpx.ConnectError("refused"),
        refusal(503, "database_unavailable"),
        refusal(502, "store_error"),
        httpx.Response(200, json={"ok": True}),
    )
    assert script.transport().get("/x") == {"ok": True}
    assert len(script.requests) == 4
    assert script.pauses[0] < script.pauses[1] < script.pauses[2]


def test_the_server_says_how_long_to_wait() -> None:
    script = Script(
        refusal(429, "too_many_requests", **{"Retry-After": "7"}), httpx.Response(200, json={})
    )
    script.transport().get("/x")
    assert script.pauses == [7.0]


def test_after_the_last_attempt_the_failure_is_raised() -> None:
    script = Script(refusal(429, "too_many_requests", **{"Retry-After": "9"}))
    with pytest.raises(TooManyRequests) as raised:
        script.transport(attempts=3).get("/x")
    assert raised.value.retry_after_seconds == 9
    assert len(script.requests) == 3
    gone = Script(httpx.ReadTimeout("slow"))
    with pytest.raises(ServerUnavailable, match="http://server"):
        gone.transport(attempts=2).get("/x")


def test_a_refusal_is_not_tried_again() -> None:
    script = Script(refusal(403, "forbidden"))
    with pytest.raises(Forbidden, match="Because"):
        script.transport().get("/x")
    assert len(script.requests) == 1
    assert script.pauses == []


def test_a_post_has_one_key_in_all_attempts_and_another_one_next_time() -> None:
    script = Script(httpx.ReadError("lost"), httpx.Response(201, json={}))
    transport = script.transport()
    transport.post("/x", {"a": 1})
    transport.post("/x", {"a": 1})
    first, again, other = (each.headers["Idempotency-Key"] for each in script.requests)
    assert first == again != other


def test_a_removal_that_was_done_by_an_attempt_whose_answer_was_lost_is_done() -> None:
    script = Script(httpx.ReadError("lost"), refusal(404, "not_found"))
    script.transport().delete("/x")
    with pytest.raises(NotFound):
        Script(refusal(404, "not_found")).transport().delete("/x")


# Errors


def classes(kind: type[HoldfastError] = HoldfastError) -> Iterator[type[HoldfastError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from classes(each)


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.code)
def test_every_error_comes_back_as_its_class(kind: type[HoldfastError]) -> None:
    """I1: the same errors in each interface."""
    error = error_of(kind.http_status, {"code": kind.code, "detail": "What to do."})
    assert type(error) is kind
    assert error.message == "What to do."


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, UsageError), (402, CreditExhausted), (412, Changed), (418, UsageError),
     (500, ServerUnavailable), (429, TooManyRequests)],
)  # fmt: skip
def test_a_code_that_is_not_known_goes_by_its_status(
    status: int, kind: type[HoldfastError]
) -> None:
    assert type(error_of(status, {"code": "of_the_future", "detail": "x"})) is kind
    assert str(status) in error_of(status, "<html>").message


def test_what_is_wrong_with_which_member_is_said() -> None:
    document = {"code": "invalid", "detail": "No.", "errors": [{"field": "a", "message": "b"}]}
    assert error_of(422, document).message == "No. (a: b)"


@pytest.mark.parametrize("url", ["server", "ftp://server", "http://", "http://a:b@server"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError):
        checked_url(url)


# Records and pages


@dataclass(frozen=True, slots=True)
class Inner:
    number: int


@dataclass(frozen=True, slots=True)
class Sample:
    id: str
    at: datetime | None = None
    money: Decimal = Decimal(0)
    inner: tuple[Inner, ...] = ()
    maybe: Inner | None = None


def test_a_record_is_filled_and_unknown_members_are_left_out() -> None:
    document: dict[str, object] = {
        "id": "1",
        "at": "2026-11-02T10:00:00Z",
        "money": "0.000001",
        "inner": [{"number": 1, "new": True}],
        "maybe": None,
        "new": {},
    }
    found = from_json(Sample, document)
    moment = datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert found == Sample("1", moment, Decimal("0.000001"), (Inner(1),))
    assert from_json(Sample, as_document(found)) == found


@pytest.mark.parametrize(
    "document",
    [
        {"at": None},
        {"id": 7},
        {"id": "1", "at": "yesterday"},
        {"id": "1", "at": "2026-11-02T10:00:00"},
        {"id": "1", "money": "much"},
        {"id": "1", "inner": {}},
        {"id": "1", "maybe": {"number": True}},
        [],
        None,
    ],
)
def test_an_answer_that_is_something_else_is_an_error(document: object) -> None:
    with pytest.raises(ServerUnavailable, match=r"Sample|Inner"):
        from_json(Sample, document)


def test_pages_follow_the_cursor_and_fetch_nothing_early() -> None:
    script = Script(
        httpx.Response(200, json={"items": [{"number": 1}], "next_cursor": "c"}),
        httpx.Response(200, json={"items": [{"number": 2}], "next_cursor": None}),
    )
    found = pages(script.transport(), "/x", Inner, {"search": "a b", "none": None})
    assert script.requests == []
    assert [each.number for each in found] == [1, 2]
    assert [dict(each.url.params) for each in script.requests] == [
        {"search": "a b"},
        {"search": "a b", "cursor": "c"},
    ]


# Downloads and streams


class Breaking(httpx.SyncByteStream):
    """A body whose connection is lost after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        raise httpx.ReadError("lost")


def test_a_file_goes_on_where_its_connection_was_lost(tmp_path: Path) -> None:
    script = Script(
        httpx.Response(200, stream=Breaking(b"abc"), headers={"ETag": '"1"'}),
        httpx.Response(206, content=b"def", headers={"ETag": '"1"'}),
    )
    seen: list[Progress] = []
    target = tmp_path / "file"
    data = SnapshotData(script.transport(), script.pauses.append)
    assert data.download_file("id", "a/b", str(target), report=seen.append) == 6
    assert target.read_bytes() == b"abcdef"
    assert script.requests[1].headers["Range"] == "bytes=3-"
    assert script.requests[1].headers["If-Range"] == '"1"'
    assert seen[-1].bytes_done == 6
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_changed_meanwhile_begins_anew(tmp_path: Path) -> None:
    script = Script(
        httpx.Response(200, stream=Breaking(b"abc"), headers={"ETag": '"1"'}),
        httpx.Response(200, content=b"other", headers={"ETag": '"2"'}),
        httpx.Response(200, content=b"other", headers={"ETag": '"2"'}),
    )
    target = tmp_path / "file"
    assert SnapshotData(script.transport(), script.pauses.append).download_file(
        "id", "a", str(target)
    )
    assert target.read_bytes() == b"other"


def test_an_archive_that_breaks_off_is_never_taken_for_the_whole(tmp_path: Path) -> None:
    script = Script(
        lambda _request: httpx.Response(200, stream=Breaking(b"PK"), headers={"ETag": '"1"'})
    )
    target = tmp_path / "a.zip"
    with pytest.raises(ServerUnavailable, match="lost"):
        SnapshotData(script.transport(), script.pauses.append).download_archive("id", str(target))
    assert list(tmp_path.iterdir()) == []
    assert len(script.requests) == 5
    assert all("Range" not in each.headers for each in script.requests)


def test_a_download_into_a_stream_and_to_a_place_that_is_not_there(tmp_path: Path) -> None:
    script = Script(lambda _request: httpx.Response(200, content=b"abc"))
    sink = io.BytesIO()
    assert SnapshotData(script.transport()).download_folder("id", "a", sink, form="tar") == 3
    assert sink.getvalue() == b"abc"
    assert script.requests[0].url.params["format"] == "tar"
    with pytest.raises(TargetError, match="no/where"):
        Download(script.transport(), "/x", {}, lambda _progress: None, resume=False).fetch_to(
            str(tmp_path / "no/where"), script.pauses.append
        )


def test_a_name_that_is_no_text_is_sent_as_its_bytes() -> None:
    script = Script(httpx.Response(200, json={"entries": [], "next_cursor": None}))
    list(SnapshotData(script.transport()).entries("id", b"\xff".decode(errors="surrogateescape")))
    assert script.requests[0].url.params["path_base64"] == "_w=="


def test_a_stream_of_events_goes_on_from_the_last_one() -> None:
    def told(number: int) -> str:
        return (
            f'id: {number}\nevent: a\ndata: {{"id": {number}, "at": "2026-11-02T10:00:00Z", '
            f'"kind": "a"}}\n\n'
        )

    script = Script(
        httpx.Response(200, text=": connected\n\n" + told(1)),
        httpx.ReadError("lost"),
        httpx.Response(200, text=told(2)),
    )
    watched = EventsResource(script.transport(attempts=1), script.pauses.append).watch()
    assert [next(watched).id, next(watched).id] == [1, 2]
    assert "Last-Event-ID" not in script.requests[0].headers
    assert script.requests[-1].headers["Last-Event-ID"] == "1"
