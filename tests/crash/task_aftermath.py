"""What has to hold of tasks after crashes: nothing acknowledged is lost, and nothing is twice.

`look_at_tasks` may be called once all tasks have ended; it changes nothing. It knows what the
computation of `task_computation` can have had on disk at any moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise

from control_aftermath import ENDED, WITH_DATA, check_told
from control_books import check_books
from control_relay import Message
from sample_repository import contents
from sqlalchemy import select
from task_computation import check_state, digest_after, output_of
from task_site import STEPS, TaskSite, said_output

from holdfast.agent.jobs.backup import SNAPSHOT_TAG
from holdfast.control.database import Database
from holdfast.control.tables import (
    Event,
    Job,
    Snapshot,
    Task,
    TaskInstance,
    TaskOutput,
    View,
)
from holdfast.control.tables import TaskSnapshot as Whole
from holdfast.control.task_state import snapshot_status_of
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.task import InstanceState, TaskState
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

SOUND = frozenset({"frozen", "atomic"})
MOST_MISSED = 20
"""So many of the slots in a row that nobody attended are recorded one by one, the last ones."""


def look_at_tasks(site: TaskSite, *, computations: bool = True) -> None:
    """Fail unless all that was acknowledged is there, and nothing twice."""
    check_ends(site.database)
    check_output(site.database)
    check_heard(site)
    check_slots_of_tasks(site.database)
    check_told(site.database)
    check_books(site.database)
    check_stored(site, computations=computations)
    for server in site.servers:
        assert not server.unexpected, server.unexpected[:3]


def check_whole_run(site: TaskSite, task_id: str, steps: int = STEPS, *, begun: int = 0) -> None:
    """It ran once, from its beginning to its end, and all of its output is there, once."""
    task, instance = site.task(task_id), site.instance(task_id)
    assert (task.state, instance.exit_code) == ("Success", 0), site.describe(f"it is {task.state}")
    assert site.output(task_id) == output_of(steps, begun)
    check_runs(site, task.name)
    assert output_of(steps, begun).endswith(f"digest {digest_after(steps)}\n")


def check_runs(site: TaskSite, name: str, times: int = 1) -> None:
    runs = site.runs_file(name).read_text()
    assert runs == "run\n" * times, f"the command was started {len(runs.splitlines())} times"


def check_ends(database: Database) -> None:
    """Every task, instance and job has come to one end, and their snapshots with them."""
    with database.read() as tx:
        tasks = tx.scalars(select(Task)).all()
        instances = tx.scalars(select(TaskInstance)).all()
        jobs = {job.id: job for job in tx.scalars(select(Job))}
        parts = tx.scalars(select(Snapshot)).all()
        wholes = tx.scalars(select(Whole)).all()
        views = Counter(tx.scalars(select(View.snapshot_id)))
        ends = Counter(
            tx.scalars(
                select(Event.subject_id).where(Event.kind.in_(("task.ended", "task.cancelled")))
            )
        )
    for task in tasks:
        assert TaskState(task.state).has_ended, f"{task.id} is {task.state}"
        assert ends[task.id] == 1, f"the end of {task.id} was told {ends[task.id]} times"
    for instance in instances:
        assert InstanceState(instance.state).has_ended, f"{instance.id} is {instance.state}"
        if instance.job_id:
            assert jobs[instance.job_id].state in ENDED, f"{instance.id} has ended, not its job"
    seen: dict[str, list[str]] = {}
    for part in parts:
        assert part.status not in ("PENDING", "RUNNING"), f"{part.id} waits for ever"
        if part.task_snapshot_id:
            seen.setdefault(part.task_snapshot_id, []).append(part.status)
        if part.status == "COMPLETED":
            assert part.manifest_id, f"{part.id} is COMPLETED without a manifest"
            assert views[part.id] == 1, f"{part.id} is seen {views[part.id]} times"
        else:
            assert part.manifest_id is None
            assert not views[part.id], f"{part.id} is {part.status} and is seen"
    for whole in wholes:
        assert whole.status == snapshot_status_of(seen[whole.id]), f"{whole.id} is {whole.status}"
    taken = Counter(each.manifest_id for each in parts if each.manifest_id)
    assert not [each for each, times in taken.items() if times > 1], "a manifest is in two rows"


def check_output(database: Database) -> None:
    """Of each stream every byte once, from the first one on."""
    with database.read() as tx:
        instances = {each.id: each for each in tx.scalars(select(TaskInstance))}
        pieces = tx.scalars(select(TaskOutput).order_by(TaskOutput.id)).all()
    ends: dict[tuple[str, str], int] = {}
    for piece in pieces:
        key = piece.instance_id, piece.stream
        assert piece.offset_bytes == ends.get(key, 0), f"{key}: a gap, or something twice"
        ends[key] = piece.offset_bytes + len(piece.data)
    for instance in instances.values():
        for stream in ("stdout", "stderr"):
            known = getattr(instance, f"{stream}_bytes")
            assert known == ends.get((instance.id, stream), 0)


def check_heard(site: TaskSite) -> None:
    """What agents were told to be heard was."""
    with site.database.read() as tx:
        instances = {each.job_id: each for each in tx.scalars(select(TaskInstance))}
        parts = {each.id: each for each in tx.scalars(select(Snapshot))}
        text: dict[tuple[str, str], bytearray] = {}
        for piece in tx.scalars(select(TaskOutput).order_by(TaskOutput.id)):
            key = piece.instance_id, piece.stream
            text.setdefault(key, bytearray()).extend(piece.data)
    for each in site.acknowledged:
        instance = instances.get(_job_of(each.message))
        if instance is None:
            continue
        for said in said_output(each.message):
            found = text.get((instance.id, said["stream"]), b"")
            end = said["offset"] + len(said["data"])
            assert bytes(found[said["offset"] : end]) == said["data"], (
                f"output of {instance.id} up to {end} was acknowledged, {len(found)} are there"
            )
        for said in each.message.body.get("messages") or ():
            if said["type"] == "snapshot" and said["status"] == "success":
                part = parts[said["snapshot_id"]]
                assert part.status in WITH_DATA, (
                    f"{part.id} was acknowledged as complete and is {part.status}"
                )
                assert part.manifest_id == said["result"]["manifest_id"]


def _job_of(message: Message) -> str:
    """Of which job a report is, if it is one."""
    parts = message.path.partition("?")[0].split("/")
    reports = parts[-1] in ("progress", "finish") and isinstance(message.body, dict)
    return parts[-2] if reports else ""


def check_slots_of_tasks(database: Database) -> None:
    """Every slot has its row; of a long absence at least the last ones, as skipped."""
    with database.read() as tx:
        tasks = tx.scalars(select(Task).where(Task.periodic_seconds.is_not(None))).all()
        wholes = tx.scalars(select(Whole).where(Whole.slot_at.is_not(None))).all()
    for task in tasks:
        assert task.periodic_seconds
        every = timedelta(seconds=task.periodic_seconds)
        status = {
            each.slot_at: each.status for each in wholes if each.task_id == task.id and each.slot_at
        }
        for one, other in pairwise(sorted(status)):
            left = round((other - one) / every) - 1
            if left:
                recorded = [status.get(other + number * every) for number in range(MOST_MISSED)]
                assert set(recorded) == {"skipped"}, f"{left} slots before {other} have no row"


def check_stored(site: TaskSite, *, computations: bool = True) -> None:
    """The repository is whole, has each snapshot once, and each is one moment of a run."""
    with site.database.read() as tx:
        parts = tx.scalars(select(Snapshot).where(Snapshot.manifest_id.is_not(None))).all()
    with site.copy_of_repository() as copy:
        repository = Repository.open(LocalStore(str(copy)), site.password())
        found = verify(repository, VerifyRequest(read_data=True, workers=0))
        assert found.clean, (found.findings, found.damaged)
        listed = {each.id: each for each in repository.snapshots()[0]}
        twice = Counter(
            tag for each in listed.values() for tag in each.tags if tag.startswith(SNAPSHOT_TAG)
        )
        assert not [tag for tag, times in twice.items() if times > 1], f"stored twice: {twice}"
        for part in parts:
            assert part.manifest_id in listed, f"the manifest of {part.id} is gone"
            manifest = listed[part.manifest_id]
            assert f"{SNAPSHOT_TAG}{part.id}" in manifest.tags, f"{part.id} has another's manifest"
            if computations:
                torn = part.consistency not in SOUND
                check_state(contents(repository, manifest), torn=torn)


def steps_in(site: TaskSite, part: Snapshot) -> int:
    """How many steps were done when it was captured."""
    return check_state(dict(files_of(site, part)), torn=part.consistency not in SOUND)


def files_of(site: TaskSite, part: Snapshot) -> Mapping[str, bytes]:
    repository = site.repository()
    manifest = next(e for e in repository.snapshots()[0] if e.id == part.manifest_id)
    return contents(repository, manifest)
