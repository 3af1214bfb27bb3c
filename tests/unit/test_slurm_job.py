"""Slurm's JSON of several versions, what follows from it, and the scripts that nodes run."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import RunnerUnavailable, StartFailed
from holdfast.runners.runner import Command, Place, RunnerStatus
from holdfast.runners.slurm_client import SlurmClient
from holdfast.runners.slurm_job import NotAnswered, SlurmJob, parse_jobs
from holdfast.runners.slurm_run import GRACE_SECONDS, Noted, judge, noted
from holdfast.runners.slurm_script import batch_script, command_script

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
JOB_ID = f"4{os.getpid():09d}"
"""No other test of this run has processes that carry it: leftovers of a job are killed."""


def old(state: str, **more: Any) -> dict[str, Any]:
    """A job as 22.05 prints it, without what is not read."""
    return {
        "job_id": 7, "name": "holdfast-a", "job_state": state, "state_reason": "None",
        "exit_code": 0, "restart_cnt": 0, "batch_host": "n1", "flags": ["JOB_WAS_RUNNING"],
        "start_time": 1795273274, "cpus": None, "current_working_directory": "/shared/a/job",
    } | more  # fmt: skip


def new(*states: str, **more: Any) -> dict[str, Any]:
    """The same as 23.11 and later print it."""
    number = {"set": True, "infinite": False, "number": 0}
    return {
        "job_id": 7, "name": "holdfast-a", "job_state": list(states), "state_reason": "None",
        "exit_code": {
            "status": ["SUCCESS"], "return_code": number,
            "signal": {"id": {"set": False, "infinite": False, "number": 0}, "name": ""},
        },
        "restart_cnt": 0, "batch_host": "n1", "start_time": number | {"number": 1795273274},
        "current_working_directory": "/shared/a/job",
    } | more  # fmt: skip


def parsed(document: dict[str, Any]) -> SlurmJob:
    (job,) = parse_jobs(json.dumps({"meta": {}, "errors": [], "jobs": [document]}))
    return job


def spelt(return_code: int, signal: int | None = None, word: str = "id") -> dict[str, Any]:
    set_ = signal is not None
    return {
        "status": ["ERROR"],
        "return_code": {"set": True, "infinite": False, "number": return_code},
        "signal": {word: {"set": set_, "infinite": False, "number": signal or 0}, "name": ""},
    }


@pytest.mark.parametrize("form", [old, new])
def test_both_forms_say_the_same(form: Any) -> None:
    job = parsed(form("RUNNING"))
    assert job == SlurmJob(
        job_id=7, name="holdfast-a", states=frozenset({"RUNNING"}), reason="None", exit_code=0,
        batch_host="n1", directory="/shared/a/job",
    )  # fmt: skip
    assert (job.running, job.waiting, job.over) == (True, False, False)


@pytest.mark.parametrize(
    ("document", "running", "waiting", "over"),
    [
        (old("PENDING"), False, True, False),
        (new("PENDING", "REQUEUED"), False, True, False),
        (old("STOPPED"), True, False, False),
        (new("RUNNING", "STOPPED"), True, False, False),
        (old("SUSPENDED"), False, False, False),
        (old("COMPLETING"), False, False, False),
        (new("COMPLETED", "COMPLETING"), False, False, False),
        (new("PENDING", "COMPLETING"), False, False, False),
        (old("COMPLETED"), False, False, True),
        (new("FAILED"), False, False, True),
        (old("TIMEOUT"), False, False, True),
        (new("NODE_FAIL"), False, False, True),
        (new("NODE_FAIL", "REQUEUED"), False, False, False),
        (old("REQUEUE_HOLD"), False, False, False),
        (old("A_STATE_OF_NEXT_YEAR"), False, False, False),
        (old(""), False, False, False),
    ],
)
def test_states(document: dict[str, Any], running: bool, waiting: bool, over: bool) -> None:
    job = parsed(document)
    assert (job.running, job.waiting, job.over) == (running, waiting, over)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, 0),
        (3 << 8, 3),
        (9, 137),
        ({"set": True, "infinite": False, "number": 256}, 1),
        ({"set": False, "infinite": False, "number": 0}, None),
        ({"status": "ERROR", "return_code": 5}, 5),
        (spelt(3), 3),
        (spelt(0, 15), 143),
        (spelt(0, 9, "signal_id"), 137),
        (None, None),
        ("odd", None),
    ],
)
def test_exit_codes(value: object, code: int | None) -> None:
    assert parsed(old("FAILED", exit_code=value)).exit_code == code


def test_an_empty_list_with_an_error_says_nothing() -> None:
    """What 22.05 prints, with exit status 0, where no controller answers."""
    error = {
        "description": "Failed while looking for jobs", "error_number": -1,
        "error": "Unspecified error", "source": "slurm_load_jobs",
    }  # fmt: skip
    with pytest.raises(NotAnswered, match="Failed while looking"):
        parse_jobs(json.dumps({"errors": [error], "jobs": []}))
    unknown = {"description": "Invalid job id specified", "error_number": 2017}
    assert parse_jobs(json.dumps({"errors": [unknown], "jobs": []})) == []


@pytest.mark.parametrize("text", ["", "squeue: error", "[]", "{}", '{"jobs": 3}'])
def test_what_is_no_such_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_jobs(text)


def judged(notes: Noted, job: SlurmJob | None, unseen_seconds: float = 0.0) -> RunnerStatus:
    return judge(notes, job, reference="7", unseen_seconds=unseen_seconds, now=NOW)


def job_in(*states: str, **more: Any) -> SlurmJob:
    return SlurmJob(job_id=7, states=frozenset(states), **more)


BEGUN = Noted(starts=1, started_at=NOW - timedelta(minutes=5), node="n1")
DONE = Noted(
    starts=1, started_at=NOW - timedelta(minutes=5), exit_code=3, ended_at=NOW - timedelta(1)
)
JUST_DONE = Noted(starts=1, started_at=NOW - timedelta(minutes=5), exit_code=3, ended_at=NOW)
ASKED = Noted(starts=1, started_at=NOW, exit_code=143, asked=True, ended_at=NOW)


@pytest.mark.parametrize(
    ("notes", "job", "kind", "code", "finding"),
    [
        (Noted(), job_in("PENDING"), "running", None, None),
        (BEGUN, job_in("RUNNING"), "running", None, None),
        (BEGUN, job_in("SUSPENDED"), "running", None, None),
        (JUST_DONE, job_in("COMPLETING"), "running", None, None),
        (DONE, job_in("COMPLETING"), "ended", 3, None),
        (DONE, job_in("FAILED"), "ended", 3, None),
        (DONE, None, "ended", 3, None),
        (ASKED, job_in("PENDING", restarts=1), "running", None, "slurm_requeued"),
        (DONE, job_in("PENDING", restarts=1), "ended", 3, "slurm_requeued"),
        (ASKED, job_in("TIMEOUT"), "ended", 143, "limit_kept_late"),
        (BEGUN, job_in("TIMEOUT", exit_code=0), "ended", 137, "limit_kept_late"),
        (BEGUN, job_in("DEADLINE", exit_code=143), "ended", 143, "limit_kept_late"),
        (BEGUN, job_in("OUT_OF_MEMORY", exit_code=137), "ended", 137, "memory_exhausted"),
        (BEGUN, job_in("PREEMPTED"), "ended", 137, "slurm_preempted"),
        (Noted(), job_in("CANCELLED"), "ended", 143, "slurm_cancelled"),
        (BEGUN, job_in("NODE_FAIL"), "lost", None, "slurm_node_failed"),
        (Noted(), job_in("BOOT_FAIL"), "lost", None, "slurm_node_failed"),
    ],
)
def test_how_a_run_stands(
    notes: Noted, job: SlurmJob | None, kind: str, code: int | None, finding: str | None
) -> None:
    found = judged(notes, job)
    assert (found.kind, found.exit_code) == (kind, code)
    assert [note.code for note in found.notes] == ([finding] if finding else [])
    assert (found.ended_at is not None) == (kind != "running")


@pytest.mark.parametrize(
    ("notes", "job", "kind", "code"),
    [
        # The file with the exit status may be on its way; afterwards Slurm's word has to do.
        (BEGUN, job_in("COMPLETED", exit_code=0), "ended", 0),
        (BEGUN, job_in("FAILED", exit_code=9), "ended", 9),
        (BEGUN, None, "lost", None),
        (Noted(), None, "lost", None),
        (Noted(), job_in("COMPLETED", exit_code=0), "lost", None),
        (Noted(), job_in("FAILED", exit_code=1, reason="JobLaunchFailure"), "lost", None),
    ],
)
def test_silence_is_believed_after_a_grace(
    notes: Noted, job: SlurmJob | None, kind: str, code: int | None
) -> None:
    assert judged(notes, job, GRACE_SECONDS - 1).kind == "running"
    found = judged(notes, job, GRACE_SECONDS)
    assert (found.kind, found.exit_code) == (kind, code)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    # A directory that a careless script would trip over.
    made = Place(tmp_path / "it's a $place")
    made.make()
    return made


def run_batch(place: Place, command: Command, **environment: str) -> int:
    """Run the batch script as a node would; Slurm's own programs are not there."""
    (place.control / "command").write_text(command_script(place, command, "/no/such/point"))
    given = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": JOB_ID} | environment
    return subprocess.run(
        ["/bin/sh", "-c", batch_script(place)],
        env=given,
        cwd="/",
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    ).returncode


def shell(script: str, **more: Any) -> Command:
    return Command(argv=("/bin/sh", "-c", script), **more)


def test_the_script_notes_start_and_end(place: Place) -> None:
    command = shell('pwd; echo "$WORDS" >&2; exit 5', environment={"WORDS": "a 'b'\n$(c) `d`"})
    assert run_batch(place, command, SLURMD_NODENAME="n3") == 5
    notes = noted(place.control)
    assert (notes.starts, notes.node, notes.exit_code, notes.asked) == (1, "n3", 5, False)
    assert notes.started_at is not None
    assert notes.ended_at is not None
    assert place.stdout.read_text() == f"{place.job}\n"
    assert place.stderr.read_text() == "a 'b'\n$(c) `d`\n"


@pytest.mark.parametrize(
    ("workdir", "seen"),
    [("sub", "job/sub"), ("/job/sub", "job/sub"), ("/job", "job"), (None, "job")],
)
def test_the_working_directory(place: Place, workdir: str | None, seen: str) -> None:
    (place.job / "sub").mkdir()
    assert run_batch(place, shell("pwd", workdir=workdir)) == 0
    assert place.stdout.read_text() == f"{place.root}/{seen}\n"


def test_a_requeue_after_the_end_runs_nothing(place: Place) -> None:
    assert run_batch(place, shell("echo run; exit 5")) == 5
    assert run_batch(place, shell("echo run; exit 6"), SLURM_RESTART_COUNT="1") == 5
    assert place.stdout.read_text() == "run\n"


def test_a_requeue_while_it_ran_runs_it_again(place: Place) -> None:
    (place.control / "exit.0").write_text("143 1 1795273274\n")
    (place.control / "time_limit_near").touch()
    assert run_batch(place, shell("echo run"), SLURM_RESTART_COUNT="1") == 0
    assert place.stdout.read_text() == "run\n"
    notes = noted(place.control)
    assert (notes.exit_code, notes.time_limit_near) == (0, False)


def test_another_job_of_the_same_place_runs_nothing(place: Place) -> None:
    (place.control / "owner").symlink_to("4000000006")
    assert run_batch(place, shell("echo run")) == 0
    assert place.stdout.read_text() == ""
    assert noted(place.control) == Noted()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command(argv=()), "no command"),
        (shell("true", image="busybox:latest"), "image"),
        (shell("true", user="root"), "user"),
        (shell("true", environment={"A B": "x"}), "'A B'"),
        (shell("true\0"), "zero byte"),
    ],
)
def test_what_no_batch_job_can_do_is_refused(place: Place, command: Command, words: str) -> None:
    with pytest.raises(StartFailed, match=words):
        command_script(place, command)


def programs(directory: Path, **scripts: str) -> dict[str, str]:
    """An environment in which Slurm's programs are shell scripts."""
    for name, script in scripts.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}


def test_the_programs_are_asked_for_one_job(tmp_path: Path) -> None:
    """22.05 prints every job, later versions the wanted ones."""
    document = json.dumps({"jobs": [old("RUNNING"), old("PENDING", job_id=8, name="other")]})
    (tmp_path / "answer").write_text(document)
    client = SlurmClient(environment=programs(tmp_path, squeue=f"cat '{tmp_path}/answer'"))
    assert [job.job_id for job in client.jobs(job_id=8)] == [8]
    assert [job.job_id for job in client.jobs(name="holdfast-a")] == [7]
    assert client.jobs(job_id=9) == []


def test_an_unknown_job_is_no_error(tmp_path: Path) -> None:
    script = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    client = SlurmClient(environment=programs(tmp_path, squeue=script))
    assert client.jobs(job_id=7) == []


def test_who_does_not_answer_is_asked_again_then_named(tmp_path: Path) -> None:
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    environment = programs(tmp_path, squeue=f"echo '{away}' >&2; exit 1")
    with pytest.raises(RunnerUnavailable, match=r"not reachable.*Unable to contact"):
        SlurmClient(patience_seconds=0, environment=environment).jobs(job_id=7)
    once = (
        f"[ -e '{tmp_path}/asked' ] && {{ echo '{{\"jobs\": []}}'; exit; }}; "
        f": > '{tmp_path}/asked'; echo '{away}' >&2; exit 1"
    )
    environment = programs(tmp_path, squeue=once)
    assert SlurmClient(patience_seconds=60, environment=environment).jobs(job_id=7) == []


def test_a_lost_answer_of_sbatch_is_none(tmp_path: Path) -> None:
    lost = "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1"
    client = SlurmClient(environment=programs(tmp_path, sbatch=lost))
    assert client.submit(tmp_path / "batch", []) is None
    client = SlurmClient(environment=programs(tmp_path, sbatch="echo '12;cluster'"))
    assert client.submit(tmp_path / "batch", []) == 12
