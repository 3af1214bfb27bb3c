"""The edge's own rules: addresses behind proxies, ETags, pages, rate limits, problems."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from holdfast.edge import problems
from holdfast.edge.etags import check_match, etag_of, is_same
from holdfast.edge.limits import Gates
from holdfast.edge.pages import link_to_next, page_by_id, page_of_all
from holdfast.edge.requests import client_address
from holdfast.edge.streams import Streams
from holdfast.errors import Changed, TooManyRequests, UsageError

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "nonsense, 10.0.0.2", "10.0.0.2"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        (None, "198.51.100.7", ""),
    ],
)
def test_an_address_is_the_last_one_that_no_proxy_wrote(
    peer: str | None, forwarded: str, address: str
) -> None:
    """A6: nobody chooses the address that they are counted under."""
    scope = {"client": (peer, 1) if peer else None}
    headers = Headers({"X-Forwarded-For": forwarded} if forwarded else {})
    assert client_address(scope, headers, PROXIES) == address


def tag(document: dict[str, Any]) -> str:
    return etag_of(document, json.dumps(document).encode(), observed=("seen_at",))


def test_an_etag_is_of_the_whole_and_of_what_people_edit() -> None:
    first = tag({"name": "a", "seen_at": 1})
    later = tag({"name": "a", "seen_at": 2})
    edited = tag({"name": "b", "seen_at": 2})

    assert is_same(first, first)
    assert is_same(f'"other", W/{first}', first)
    assert is_same("*", first)
    assert not is_same(later, first)
    assert not is_same(None, first)
    for given in (None, "*", first, f'"x-y", {first}', later):
        check_match(given, later)
    for given in (edited, '""', "", "nonsense"):
        with pytest.raises(Changed):
            check_match(given, later)


def request(query: str = "") -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/api/v1/hosts",
            "query_string": query.encode(),
            "headers": [],
            "state": {"request_id": "r"},
        }
    )


def test_the_link_to_the_next_page_keeps_the_filters() -> None:
    link = link_to_next(request("search=a%26b&cursor=old&limit=2"), cursor="new")
    assert link == '</api/v1/hosts?search=a%26b&limit=2&cursor=new>; rel="next"'


def test_pages_of_lists_that_are_there_whole() -> None:
    first = page_of_all("abcde", name=str, cursor=None, limit=2)
    second = page_of_all("abcde", name=str, cursor=first.next_cursor, limit=3)
    assert (first.items, second.items) == (["a", "b"], ["c", "d", "e"])
    assert second.next_cursor is None
    assert page_of_all("", name=str, cursor=None, limit=2).items == []
    with pytest.raises(UsageError):
        page_of_all("abcde", name=str, cursor="z", limit=2)


def test_a_part_of_a_log_goes_on_after_its_last_line() -> None:
    assert page_by_id([1, 2], name=int, limit=2).next_cursor == "2"
    assert page_by_id([1], name=int, limit=2).next_cursor is None


def test_gates_count_each_caller_by_itself() -> None:
    """A6: per token, per address; sign-ins more narrowly."""
    gates = Gates(address=(1, 2), token=(1, 1), sign_in=(1, 1), monotonic=lambda: 0.0)
    for _ in range(2):
        gates.pass_address("192.0.2.1")
    gates.pass_address("192.0.2.2")
    with pytest.raises(TooManyRequests):
        gates.pass_address("192.0.2.1")

    gates.pass_credential("token", "a")
    gates.pass_credential("agent", "a")
    with pytest.raises(TooManyRequests):
        gates.pass_credential("token", "a")

    gates.pass_sign_in("192.0.2.1")
    gates.pass_sign_in("192.0.2.9")
    with pytest.raises(TooManyRequests):
        gates.pass_sign_in("192.0.2.1")


def test_streams_are_counted_for_as_long_as_they_are_open() -> None:
    streams = Streams()
    with streams.counted("account"):
        streams.check("account", 2)
        streams.check("other", 1)
        with pytest.raises(TooManyRequests):
            streams.check("account", 1)
    streams.check("account", 1)


def test_a_problem_is_ascii_and_bounded_whatever_was_sent() -> None:
    found: list[dict[str, Any]] = [
        {"type": "extra", "loc": ("body", "\ud800" * 500), "msg": "no"},
        *({"type": "extra", "loc": ("body", each), "msg": "no"} for each in range(100)),
    ]
    answer = problems.of_validation(request(), found)
    body = bytes(answer.body)
    assert body.isascii()
    document = json.loads(body)
    assert len(document["errors"]) == 50
    assert len(document["errors"][0]["field"]) == 200
    assert document["request_id"] == "r"


def test_too_many_requests_says_when_to_come_again() -> None:
    answer = problems.of_error(request(), TooManyRequests("slow down", 7))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
