"""Answers: documents, pages and changes, each with the headers that belong to it.

A document is a pydantic model. Its body is made once, here, and its ETag is of exactly
those bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from holdfast.control.database import Tx
from holdfast.control.paging import Page
from holdfast.edge.call import Visit
from holdfast.edge.etags import check_match, etag_of, is_same
from holdfast.edge.pages import link_to_next

_Row = TypeVar("_Row")

JSON_TYPE = "application/json"
Show = Callable[[_Row], BaseModel]
"""Turns what a service returned into the document that is sent."""


def document(
    request: Request,
    shown: BaseModel,
    *,
    status: int = 200,
    location: str | None = None,
    observed: Collection[str] = (),
) -> Response:
    """One resource; 304 without it where the caller has it already."""
    body = shown.model_dump_json().encode()
    tag = etag_of(shown.model_dump(mode="json"), body, observed)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.method == "GET" and is_same(request.headers.get("If-None-Match"), tag):
        return Response(None, 304, headers)
    if location is not None:
        headers["Location"] = location
    return Response(body, status, headers, JSON_TYPE)


def plain(shown: BaseModel, *, status: int = 200) -> Response:
    """A document that is no resource: the outcome of an act, or a calculation."""
    return Response(shown.model_dump_json().encode(), status, None, JSON_TYPE)


def listing(
    request: Request, page: Page[_Row], show: Show[_Row], *, cursor: str = "cursor"
) -> Response:
    """One page; `cursor` is the query parameter that leads to the next one."""
    items = b",".join(show(item).model_dump_json().encode() for item in page.items)
    next_cursor = json.dumps(page.next_cursor).encode()
    body = b'{"items":[' + items + b'],"next_cursor":' + next_cursor + b"}"
    headers = {}
    if page.next_cursor is not None:
        headers["Link"] = link_to_next(request, **{cursor: page.next_cursor})
    return Response(body, 200, headers, JSON_TYPE)


def nothing() -> Response:
    """It is done, and there is nothing to say."""
    return Response(None, 204)


def change(
    visit: Visit,
    if_match: str | None,
    *,
    read: Callable[[Tx], _Row],
    act: Callable[[Tx], _Row],
    show: Show[_Row],
    observed: Collection[str] = (),
) -> Response:
    """Change one resource, if it is still what the caller saw; answers with what it became."""
    with visit.writing() as tx:
        _check(tx, if_match, read, show, observed)
        row = act(tx)
        tx.flush()
        shown = show(row)
    return document(visit.request, shown, observed=observed)


def remove(
    visit: Visit,
    if_match: str | None,
    *,
    read: Callable[[Tx], _Row],
    act: Callable[[Tx], Any],
    show: Show[_Row],
    observed: Collection[str] = (),
) -> Response:
    """Remove one resource, if it is still what the caller saw."""
    with visit.writing() as tx:
        _check(tx, if_match, read, show, observed)
        act(tx)
    return nothing()


def _check(
    tx: Tx,
    if_match: str | None,
    read: Callable[[Tx], _Row],
    show: Show[_Row],
    observed: Collection[str],
) -> None:
    if if_match is None:
        return
    row = read(tx)
    # Two edits that saw the same state must not both go on: the second waits here.
    tx.refresh(row, with_for_update=True)
    shown = show(row)
    tag = etag_of(shown.model_dump(mode="json"), shown.model_dump_json().encode(), observed)
    check_match(if_match, tag)
