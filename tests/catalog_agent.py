"""An agent in a test of the catalog: it takes its host's jobs and ends them at once."""

from __future__ import annotations

import hashlib
from typing import Any

from control_world import World

from holdfast.control import jobs
from holdfast.control.jobs import JobError
from holdfast.control.tables import Host, Job


class CatalogAgent:
    """The agent of one host. What it stores is made up; every run adds `stored_bytes`."""

    def __init__(self, world: World, host: Host, *, stored_bytes: int = 2_000_000) -> None:
        self.stored_bytes = stored_bytes
        self._world = world
        self._who = world.agent(host)

    def claim(self) -> Job | None:
        """Take the next job of this host, if there is one."""
        with self._world.database.write() as tx:
            return jobs.claim(tx, self._who, instance="agent", now=self._world.now)

    def succeed(self, job: Job, **result: Any) -> Job:
        """End a job that was taken; `result` are members of its result."""
        with self._world.database.write() as tx:
            return jobs.finish(
                tx,
                self._who,
                job.id,
                attempt=job.attempt,
                outcome="succeeded",
                result=self._result(job) | result,
                findings=(),
                error=None,
                lines=(),
                now=self._world.now,
                keys=self._world.keys,
            )

    def fail(self, job: Job, *, retryable: bool = False) -> Job:
        """End a job that was taken with a failure."""
        with self._world.database.write() as tx:
            return jobs.finish(
                tx,
                self._who,
                job.id,
                attempt=job.attempt,
                outcome="failed",
                error=JobError("store_unavailable", "The store did not answer.", retryable),
                now=self._world.now,
                keys=self._world.keys,
            )

    def work(self) -> list[Job]:
        """Take and complete everything that there is; the jobs, as they ended."""
        done = []
        while job := self.claim():
            done.append(self.succeed(job))
        return done

    def _result(self, job: Job) -> dict[str, Any]:
        if job.kind == "backup":
            return {
                "manifest_id": hashlib.sha256(job.id.encode()).hexdigest(),
                "consistency": "per_file",
                "captured_at": self._world.now.isoformat(),
                "files": 3,
                "logical_bytes": 3_000_000,
                "read_bytes": 3_000_000,
                "stored_bytes": self.stored_bytes,
                "verified": True,
            }
        if job.kind == "copy":
            return {
                # The same snapshot has the same id in one repository, whoever copies it.
                "manifest_id": hashlib.sha256(
                    f"{job.repository_id} {job.spec['copy_of_id']}".encode()
                ).hexdigest(),
                "stored_bytes": self.stored_bytes,
                "bytes_read": self.stored_bytes,
                "was_there": False,
            }
        if job.kind == "restore":
            return {"files": 3, "restored_bytes": 3_000_000}
        if job.kind == "drill":
            return {
                "files": 3,
                "directories": 1,
                "restored_bytes": 3_000_000,
                "compared_bytes": 3_000_000,
                "restore_milliseconds": 1500,
                "passed": True,
            }
        if job.kind == "remove":
            return {"removed": [each["manifest_id"] for each in job.spec["snapshots"]]}
        if job.kind == "verify":
            return {
                "packs_read": 1,
                "packs_total": 28,
                "bytes_read": 1,
                "damaged": {},
                "clean": True,
            }
        if job.kind == "prune":
            return {"freed_bytes": 0, "stored_bytes": self.stored_bytes}
        if job.kind == "reconcile":
            return {"missing": [], "orphans": {}}
        return {"stored_bytes": self.stored_bytes, "shares": {}}
