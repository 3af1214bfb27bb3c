"""The app under ``/lium/api``: its routes, and errors as Lium's client reads them.

The client takes the sentence from ``detail``, and code and request id from ``error``; the key
comes in X-API-KEY. Lists come by page number; a page holds at most 100 entries.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI

from holdfast.compat.lium import backup_configs, backup_logs, pods, restore_logs
from holdfast.compat.refusals import answer_refusals
from holdfast.edge.deployment import Deployment
from holdfast.edge.requests import RequestScope

PREFIX: Final = "/lium/api"


def make_app(deployment: Deployment) -> FastAPI:
    """The app, for one deployment."""
    app = FastAPI(title="Holdfast for Lium's clients", openapi_url=None, docs_url=None)
    app.state.deployment = deployment
    app.add_middleware(RequestScope, deployment=deployment)
    for resource in (pods, backup_configs, backup_logs, restore_logs):
        app.include_router(resource.router, prefix=PREFIX)
    answer_refusals(app, _written, invalid_status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return app


def _written(code: str, message: str, request_id: str) -> dict[str, Any]:
    error = {"code": code, "message": message, "hint": None, "request_id": request_id}
    return {"detail": message, "error": error}
