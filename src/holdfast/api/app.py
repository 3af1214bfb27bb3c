"""The native API as one ASGI app, with what belongs to it: problems, ids, limits, OpenAPI."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from holdfast.api import (
    accounts,
    agent,
    audit,
    billing,
    buckets,
    drills,
    events,
    gateway,
    gateway_buckets,
    hosts,
    jobs,
    members,
    openapi,
    operations,
    prices,
    regions,
    repositories,
    restores,
    schedules,
    sessions,
    snapshots,
    sources,
    task_snapshots,
    tasks,
    tokens,
    webhooks,
)
from holdfast.api.operation import PREFIX
from holdfast.edge import problems
from holdfast.edge.deployment import Deployment
from holdfast.edge.requests import RequestScope
from holdfast.errors import HoldfastError

RESOURCES: Final = (
    sessions,
    accounts,
    members,
    tokens,
    regions,
    repositories,
    hosts,
    sources,
    schedules,
    snapshots,
    restores,
    drills,
    tasks,
    task_snapshots,
    buckets,
    jobs,
    events,
    webhooks,
    audit,
    prices,
    billing,
    agent,
    gateway,
    gateway_buckets,
    operations,
)


def make_app(deployment: Deployment) -> FastAPI:
    """The API of a deployment. It starts nothing and owns nothing; close the database yourself."""
    app = FastAPI(
        title="Holdfast",
        summary="Snapshots and backups of GPU work.",
        description="Times are RFC 3339 in UTC, sizes are bytes, amounts are exact decimals as "
        "text. Every list is paged, and every error is a problem document.",
        version=deployment.version,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.deployment = deployment
    for resource in RESOURCES:
        app.include_router(resource.routes)
    app.add_exception_handler(HoldfastError, _of_error)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_middleware(RequestScope, deployment=deployment)
    document: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not document:
            document.update(openapi.document_of(app))
        return document

    app.openapi = described  # type: ignore[method-assign]
    return app


def _of_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HoldfastError)
    return problems.of_error(request, error)


def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(tuple(each["loc"])[:1] == ("path",) for each in error.errors()):
        # What is no id may be a word that another operation has at this place.
        allowed = _allowed(request)
        wrong_method = allowed and request.method not in allowed
        return _method_unknown(request, allowed) if wrong_method else _nothing(request)
    return problems.of_validation(request, error.errors())


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _method_unknown(request, _allowed(request))
    return problems.of_status(request, error.status_code, error.headers)


def _allowed(request: Request) -> list[str]:
    return openapi.allowed_methods(request.app.openapi(), request.url.path)


def _method_unknown(request: Request, allowed: list[str]) -> Response:
    # An address that only looks like one of ours has no method at all.
    return (
        problems.of_status(request, 405, {"Allow": ", ".join(allowed)})
        if allowed
        else _nothing(request)
    )


def _nothing(request: Request) -> Response:
    return problems.of_status(request, 404)
