"""The agents' side: enrolling, living, and doing jobs. docs/design/control-plane.md has the rules.

A claim waits in the event loop, not in a thread, because thousands of agents do nothing
else all day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from holdfast.api.document import Body, Document
from holdfast.api.fields import Boolean, Id, JsonObject, PathId, Said, Secret, Time, Word
from holdfast.api.hosts import NewRoot, plain_roots
from holdfast.api.operation import largest_body, router
from holdfast.control import gateway_access, hosts, jobs
from holdfast.control.database import Tx
from holdfast.control.forsaken import forsaken
from holdfast.control.gateway_access import RepositoryKey
from holdfast.control.jobs import JobError, LogLine
from holdfast.control.principal import Right
from holdfast.edge.answers import nothing, plain
from holdfast.edge.call import Anybody, AskedByAgent, Call

routes = router("agent")

LONGEST_WAIT_SECONDS: Final = 30
_PAUSES_SECONDS: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""After being woken for nothing: work that this host may not take yet must not spin it."""

Instance = Annotated[str, Field(min_length=1, max_length=36, pattern=r"^[A-Za-z0-9-]+$")]
Version = Annotated[str, Field(max_length=50, pattern=r"^[^\x00]*$")]
Attempt = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class Enrolment(Body):
    """A machine that was invited. `inventory` is what it reports of itself."""

    token: Secret
    name: Word
    version: Version = ""
    roots: Annotated[list[NewRoot], Field(min_length=1, max_length=50)]
    inventory: JsonObject = Field(default_factory=dict)


class Enrolled(Document):
    """The host that it is now. `credential` is shown this once."""

    host_id: str
    credential: str


class RunningJob(Body):
    """A job that the agent is working on."""

    job_id: Id
    attempt: Attempt


class Heartbeat(Body):
    """That an agent is alive, and how its machine is.

    `computations` are jobs whose computations were begun on it, and did not end there.
    """

    instance: Instance
    version: Version = ""
    inventory: JsonObject = Field(default_factory=dict)
    running: Annotated[list[RunningJob], Field(max_length=200)] = Field(default_factory=list)
    computations: Annotated[list[Id], Field(max_length=1000)] = Field(default_factory=list)


class HeartbeatAnswer(Document):
    """When to come again, and which jobs to stop.

    `forsaken` are those of the computations that go on for a job that has ended.
    """

    interval_seconds: int
    stop: list[str]
    forsaken: list[str]


class Room(Body):
    """How much more an agent wants: of instances of tasks, and of all other jobs."""

    jobs: Annotated[int, Field(strict=True, ge=0, le=10_000)]
    tasks: Annotated[int, Field(strict=True, ge=0, le=10_000)]


class Claim(Body):
    """A wish for work; waits for so long when there is none. Without `room`, for any."""

    instance: Instance
    room: Room | None = None
    wait_seconds: Annotated[float, Field(strict=True, ge=0, le=LONGEST_WAIT_SECONDS)] = 0


class ClaimedJob(Document):
    """What is to be done."""

    id: str
    kind: str
    attempt: int
    spec: dict[str, Any]
    spec_version: int
    lease_seconds: int
    account_id: str
    correlation_id: str


class ClaimedRepository(Document):
    """Where it is to be done, through the gateway; `exists` where it was made already."""

    id: str
    url: str
    password: str
    exists: bool


class Claimed(Document):
    """A job under a lease, and what it needs. `source` is what a copy is made from."""

    job: ClaimedJob
    repository: ClaimedRepository | None
    source: ClaimedRepository | None = None


class NewLine(Body):
    """One line of a job's log."""

    at: Time
    level: Literal["debug", "info", "warning", "error"] = "info"
    text: Said


Lines = Annotated[list[NewLine], Field(max_length=500)]


Messages = Annotated[list[JsonObject], Field(max_length=100)]
"""What is said of an instance of a task; docs/design/control-plane.md has them."""


class Progress(Body):
    """Where an attempt stands."""

    attempt: Attempt
    stage: Said = ""
    progress: JsonObject = Field(default_factory=dict)
    lines: Lines = Field(default_factory=list)
    messages: Messages = Field(default_factory=list)


class ProgressAnswer(Document):
    """How long the lease holds now, whether somebody wants the job to end, and the orders.

    Orders are for instances of tasks, and the whole of what is wanted, each time.
    """

    lease_until: datetime
    cancel: bool
    orders: dict[str, Any] | None


class NewFinding(Body):
    """Something that a person should know about the result."""

    code: Said
    message: Said = ""
    subject: Said = ""


class Failure(Body):
    """Why an attempt failed, in the words of the tree of errors."""

    code: Said
    message: Said
    retryable: Boolean = False


class Finish(Body):
    """How an attempt ended."""

    attempt: Attempt
    outcome: Literal["succeeded", "failed", "cancelled"]
    result: JsonObject | None = None
    findings: Annotated[list[NewFinding], Field(max_length=100_000)] = Field(default_factory=list)
    error: Failure | None = None
    lines: Lines = Field(default_factory=list)
    messages: Messages = Field(default_factory=list)


class Finished(Document):
    """What became of the job; it may have been queued again."""

    id: str
    state: str
    attempt: int


@routes.post("/agent/enrol", response_model=Enrolled, status_code=201)
@largest_body(1 << 20)
def enrol_agent(visit: Anybody, body: Enrolment) -> Response:
    """Enrol a machine with the secret of an invitation, which is spent by that."""
    with visit.writing() as tx:
        host, credential = hosts.enrol(
            tx,
            body.token,
            name=body.name,
            version=body.version,
            roots=plain_roots(body.roots),
            inventory=body.inventory,
            address=visit.address,
            now=visit.now,
        )
    return plain(Enrolled(host_id=host.id, credential=credential), status=201)


@routes.post("/agent/heartbeat", response_model=HeartbeatAnswer)
def beat(call: AskedByAgent, body: Heartbeat) -> Response:
    """Say that this agent is alive; learn which of its jobs to stop."""
    running = [hosts.RunningJob(each.job_id, each.attempt) for each in body.running]
    with call.writing() as tx:
        stop = hosts.heartbeat(
            tx,
            call.who,
            instance=body.instance,
            version=body.version,
            inventory=body.inventory,
            running=running,
            now=call.now,
        )
        ended = forsaken(tx, call.who, body.computations)
    return plain(
        HeartbeatAnswer(interval_seconds=hosts.HEARTBEAT_SECONDS, stop=stop, forsaken=ended)
    )


@routes.post("/agent/claim", response_model=Claimed, responses={204: {"description": "No work."}})
async def claim_job(call: AskedByAgent, body: Claim) -> Response:
    """Claim a job under a lease; waits for one for at most `wait_seconds`.

    204 when nothing came. A claim by a new `instance` returns what the old one had.
    """
    deployment = call.deployment
    loop = asyncio.get_running_loop()
    until = loop.time() + min(body.wait_seconds, deployment.limits.longest_wait_seconds)
    attempt = partial(_try_to_claim, call, body)
    # Only a keeper's credential deletes, and only keepers do what is for no host.
    keeper = Right.DELETE in call.who.rights
    with deployment.wakeups.listening(
        call.who.id, keeper=keeper, find=_waiting_hosts(call)
    ) as bell:
        claimed = await run_in_threadpool(attempt)
        tries = 0
        while claimed is None and not deployment.wakeups.closing:
            if not await bell.wait(until - loop.time()):
                break
            pause = _PAUSES_SECONDS[min(tries, len(_PAUSES_SECONDS) - 1)]
            await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
            # A job must not be leased to an agent that has hung up.
            if deployment.wakeups.closing or await call.request.is_disconnected():
                break
            claimed = await run_in_threadpool(attempt)
            tries += 1
    return nothing() if claimed is None else plain(claimed)


@routes.post("/agent/jobs/{job_id}/progress", response_model=ProgressAnswer)
def report_progress(call: AskedByAgent, job_id: PathId, body: Progress) -> Response:
    """Report progress, which renews the lease; learn whether the job is wanted no longer."""
    with call.writing() as tx:
        lease_until, cancel, orders = jobs.report(
            tx,
            call.who,
            job_id,
            attempt=body.attempt,
            stage=body.stage,
            progress=body.progress,
            lines=_lines(body.lines),
            messages=body.messages,
            lease_seconds=call.deployment.lease_seconds,
            now=call.now,
        )
    return plain(ProgressAnswer(lease_until=lease_until, cancel=cancel, orders=orders))


@routes.post("/agent/jobs/{job_id}/finish", response_model=Finished)
@largest_body(40 << 20)  # a measurement names every snapshot of a repository
def finish_job(call: AskedByAgent, job_id: PathId, body: Finish) -> Response:
    """Finish an attempt. A repetition is answered like the first time."""
    error = None
    if body.error is not None:
        error = JobError(body.error.code, body.error.message, body.error.retryable)

    def act(tx: Tx) -> Finished:
        job = jobs.finish(
            tx,
            call.who,
            job_id,
            attempt=body.attempt,
            outcome=body.outcome,
            result=body.result or {},
            findings=[each.model_dump() for each in body.findings],
            error=error,
            lines=_lines(body.lines),
            messages=body.messages,
            now=call.now,
            keys=call.keys,
        )
        tx.flush()
        return Finished.model_validate(job)

    finished = call.deployment.database.transact(act)
    call.deployment.wakeups.nudge()
    return plain(finished)


def _try_to_claim(call: Call, wish: Claim) -> Claimed | None:
    now = call.deployment.clock()
    room = None if wish.room is None else jobs.Room(wish.room.jobs, wish.room.tasks)
    lease_seconds = call.deployment.lease_seconds
    with call.reading() as tx:
        if not jobs.is_worth_claiming(tx, call.who, instance=wish.instance, room=room, now=now):
            return None
    with call.writing() as tx:
        job = jobs.claim(
            tx,
            call.who,
            instance=wish.instance,
            lease_seconds=lease_seconds,
            room=room,
            now=now,
        )
        if job is None:
            return None
        repository = gateway_access.repository_of_job(tx, job, keys=call.keys)
        source = gateway_access.source_of_job(tx, job, keys=call.keys)
        return Claimed(
            job=ClaimedJob(
                id=job.id,
                kind=job.kind,
                attempt=job.attempt,
                spec=job.spec,
                spec_version=job.spec_version,
                lease_seconds=lease_seconds,
                account_id=job.account_id,
                correlation_id=job.correlation_id,
            ),
            repository=_place(call, repository),
            source=_place(call, source),
        )


def _place(call: Call, access: RepositoryKey | None) -> ClaimedRepository | None:
    """Where a repository is reached and what opens it."""
    if access is None:
        return None
    return ClaimedRepository(
        id=access.repository_id,
        url=call.deployment.repository_url(access.repository_id),
        password=access.password,
        exists=access.exists,
    )


def _waiting_hosts(call: Call) -> Callable[[], set[str | None]]:
    deployment = call.deployment

    def find() -> set[str | None]:
        with deployment.database.read() as tx:
            return jobs.waiting_hosts(tx, now=deployment.clock())

    return find


def _lines(lines: list[NewLine]) -> list[LogLine]:
    return [LogLine(each.at, each.level, each.text) for each in lines]
