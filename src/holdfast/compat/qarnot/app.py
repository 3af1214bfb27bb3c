"""The app under ``/qarnot``: its routes, and errors as Qarnot's clients read them.

Every path is there unversioned, as the SDK asks for it, and below ``/v1`` (any version), as
the vendor's guide writes it. A client takes the sentence from ``message`` and the kind of
error from the status alone. It repeats every request that was answered with 429 or 5xx,
also one that makes something, so 5xx says that nothing was done.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI

from holdfast.compat.qarnot import account, output, snapshots, tasks
from holdfast.compat.refusals import answer_refusals
from holdfast.edge.deployment import Deployment
from holdfast.edge.requests import RequestScope
from holdfast.errors import (
    CreditExhausted,
    HoldfastError,
    NotReady,
    QuotaExceeded,
)

PREFIX: Final = "/qarnot"
PREFIXES: Final = (PREFIX, PREFIX + "/v{version}")

_STATUS: Final[dict[type[HoldfastError], int]] = {
    # "Invalid operation on a task that does not run".
    NotReady: HTTPStatus.FORBIDDEN,
    QuotaExceeded: HTTPStatus.FORBIDDEN,
    CreditExhausted: HTTPStatus.PAYMENT_REQUIRED,
}


def make_app(deployment: Deployment) -> FastAPI:
    """The app, for one deployment."""
    app = FastAPI(title="Holdfast for Qarnot's clients", openapi_url=None, docs_url=None)
    app.state.deployment = deployment
    app.add_middleware(RequestScope, deployment=deployment)
    # The SDK asks for some paths with a slash at the end; a redirection would lose its body.
    app.router.redirect_slashes = False
    for prefix in PREFIXES:
        for resource in (account, tasks, snapshots, output):
            app.include_router(resource.router, prefix=prefix)
    answer_refusals(app, _written, invalid_status=HTTPStatus.BAD_REQUEST, status_of=_status_of)
    return app


def _status_of(error: HoldfastError) -> int:
    found = (status for kind, status in _STATUS.items() if isinstance(error, kind))
    return next(found, error.http_status)


def _written(_code: str, message: str, _request_id: str) -> dict[str, str]:
    return {"message": message}
