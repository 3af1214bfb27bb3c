"""The OpenAPI document: what FastAPI knows, and what every operation has besides.

Each operation gets the errors that it can answer with, as problem documents; who may call
it as its security; its first sentence as summary; and conditional requests where they are
understood. Nothing here changes what is served.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from holdfast.api.operation import CREDENTIAL
from holdfast.edge import problems
from holdfast.edge.deployment import SESSION_COOKIE

VERSION: Final = "3.1.0"
METHODS: Final = ("get", "put", "post", "patch", "delete")

_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "What went wrong (RFC 9457). `code` is stable; `detail` says what to do.",
    "required": [
        "type",
        "title",
        "status",
        "detail",
        "code",
        "request_id",
        "retryable",
        "errors",
    ],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "retryable": {"type": "boolean"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_MEANINGS: Final[dict[int, str]] = {
    400: "The request cannot be meant.",
    401: "There is no credential, or not one that is known.",
    402: "No credit is left for something new.",
    403: "The credential does not carry the right, or is of another kind.",
    404: "There is no such thing in this account.",
    405: "The address does not know this method.",
    409: "It is in a state that does not allow this, or its name is taken.",
    412: "It was changed since it was read.",
    413: "The request is too large.",
    415: "The body is not declared as JSON.",
    422: "The request does not fit its schema, or the account's limits or profile forbid it.",
    429: "Too many requests; see Retry-After.",
    500: "Something that should not have happened.",
    503: "The database is away for a moment; see Retry-After.",
}
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"schema": {"type": "integer"}}},
    503: {"Retry-After": {"schema": {"type": "integer"}}},
}
_UNSAID: Final = "Successful Response"
_SUCCESSES: Final = {
    "200": "Done.",
    "201": "Made.",
    "202": "Taken on; it is done later.",
    "204": "Done, and there is nothing to say.",
}
_SECURITY: Final[dict[str, list[dict[str, list[str]]]]] = {
    "none": [],
    "people": [{"bearer": []}, {"api_key": []}, {"session": []}],
    "agent": [{"bearer": []}, {"api_key": []}],
    "gateway": [{"bearer": []}, {"api_key": []}],
}
_SCHEMES: Final[dict[str, dict[str, str]]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token: `hf_...`."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-KEY"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "A browser's session. Changes must come from our own pages.",
    },
}


def document_of(app: FastAPI) -> dict[str, Any]:
    """The whole document of an app."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=VERSION,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for framework in ("HTTPValidationError", "ValidationError"):
        schemas.pop(framework, None)
    schemas["Problem"] = _PROBLEM_SCHEMA
    components["securitySchemes"] = _SCHEMES
    components["responses"] = {f"Problem{status}": _response(status) for status in _MEANINGS}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                _complete(path, method, item[method])
    return document


def allowed_methods(document: dict[str, Any], path: str) -> list[str]:
    """The methods that operations at this path have, for the Allow header."""
    return sorted(
        method.upper()
        for template, item in document["paths"].items()
        for method in METHODS
        if method in item and re.fullmatch(_pattern(template, item[method]), path)
    )


def _pattern(template: str, operation: dict[str, Any]) -> str:
    """What paths look like that mean this operation; an id is no word and the other way round."""
    schemas = {
        each["name"]: each["schema"]
        for each in operation.get("parameters", ())
        if each["in"] == "path"
    }
    parts = [
        schemas[part[1:-1]].get("pattern", "[^/]+").strip("^$")
        if part.startswith("{")
        else re.escape(part)
        for part in template.split("/")
    ]
    return "/".join(parts)


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _MEANINGS[status],
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return response


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    credential = operation.pop(CREDENTIAL, "none")
    operation["security"] = _SECURITY[credential]
    text = operation.get("description", "")
    operation["summary"] = text.partition("\n")[0].strip().rstrip(".")
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    responses = operation["responses"]
    responses.pop("422", None)
    for status, response in responses.items():
        if response.get("description") == _UNSAID:
            response["description"] = _SUCCESSES[status]
    for status in _statuses(path, method, operation, credential):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    if method == "get" and "ETag" in _note_etag(responses):
        operation.setdefault("parameters", []).append(
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "description": "Answer 304 where the document still has this ETag.",
                "schema": {"type": "string"},
            }
        )
        responses["304"] = {"description": "It is what the caller has already."}
    operation["responses"] = dict(sorted(responses.items()))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that may be left out: it is never sent as null."""
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(options) != 1:
        return schema
    return {**{name: schema[name] for name in schema if name != "anyOf"}, **options[0]}


def _statuses(path: str, method: str, operation: dict[str, Any], credential: str) -> set[int]:
    statuses = {400, 405, 422, 429, 500, 503}
    if credential != "none":
        statuses |= {401, 403, 404}
    if "{" in path:
        statuses.add(404)
    if method != "get":
        statuses |= {401, 402, 403, 404, 409}
    if any(each["name"] == "If-Match" for each in operation.get("parameters", ())):
        statuses.add(412)
    if "requestBody" in operation:
        statuses |= {413, 415}
    return statuses


def _note_etag(responses: dict[str, Any]) -> dict[str, Any]:
    """The headers of a success that is one resource."""
    success = responses.get("200", {})
    schema = success.get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    headers: dict[str, Any] = {}
    if name in _RESOURCES:
        headers = success.setdefault("headers", {})
        headers["ETag"] = {"schema": {"type": "string"}}
    return headers


_RESOURCES: Final = frozenset(
    {
        *("Account", "Drill", "Host", "Job", "Restore"),
        *("Schedule", "Snapshot", "Source", "Webhook"),
    }
)
"""Documents that are sent with an ETag."""
