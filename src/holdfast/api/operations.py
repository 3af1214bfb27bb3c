"""Operations: whether this process lives and is ready, what it is, and its metrics."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from holdfast.api.document import Document
from holdfast.api.operation import PREFIX, Operation
from holdfast.control import events, metrics
from holdfast.edge.answers import plain
from holdfast.edge.call import Anybody, Asked
from holdfast.errors import ServerUnavailable
from holdfast.model.schedule import PRESETS

routes = APIRouter(
    tags=["operations"],
    route_class=Operation,
    generate_unique_id_function=lambda route: route.name,
)


class Health(Document):
    """That the process answers."""

    status: Literal["ok"]


class Readiness(Document):
    """That it can work: its database answers, with the schema that it knows."""

    status: Literal["ready"]
    replica_id: str


class Version(Document):
    """Which version of Holdfast this is."""

    version: str
    api: str


class Capabilities(Document):
    """What this installation can do, for clients that know several versions."""

    version: str
    api: list[str]
    kinds: list[str]
    archive_formats: list[str]
    presets: list[str]
    events: list[str]
    gateway_url: str


@routes.get("/health", response_model=Health)
def get_health(visit: Anybody) -> Response:
    """Say that this process is alive; looks at nothing else."""
    del visit
    return plain(Health(status="ok"))


@routes.get("/ready", response_model=Readiness)
def get_readiness(visit: Anybody) -> Response:
    """Say whether this process can work: its database answers and its schema is current."""
    deployment = visit.deployment
    problem = deployment.schema_problem(deployment.database)
    with deployment.database.read() as tx:
        tx.connection().exec_driver_sql("SELECT 1")
    if problem is not None:
        raise ServerUnavailable(problem)
    if deployment.wakeups.closing:
        raise ServerUnavailable("This process is about to end; ask another one.")
    return plain(Readiness(status="ready", replica_id=deployment.replica_id))


@routes.get("/version", response_model=Version)
def get_version(visit: Anybody) -> Response:
    """Say which version of Holdfast this is."""
    return plain(Version(version=visit.deployment.version, api=PREFIX))


@routes.get("/capabilities", response_model=Capabilities)
def get_capabilities(visit: Anybody) -> Response:
    """Say what this installation can do."""
    return plain(
        Capabilities(
            version=visit.deployment.version,
            api=["v1"],
            kinds=["path"],
            archive_formats=["repository", "zip"],
            presets=list(PRESETS),
            events=list(events.KINDS),
            gateway_url=visit.deployment.gateway_url,
        )
    )


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@routes.get("/metrics", response_class=Response, responses=_METRICS)
def get_metrics(call: Asked) -> Response:
    """Show metrics of the whole installation for Prometheus. Operators only."""
    call.who.require_operator()
    with call.reading() as tx:
        content = metrics.render(tx, now=call.now)
    return Response(content, 200, None, CONTENT_TYPE_LATEST)
