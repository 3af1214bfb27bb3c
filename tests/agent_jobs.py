"""Jobs done in this very process, through a real gateway; for what a job does, not how it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway_server import Served, served
from sample_repository import CHEAP, PASSWORD

from holdfast.agent import jobs
from holdfast.agent.jobs.context import JobContext, JobEnd
from holdfast.model.guarded_path import Root
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore


class Workplace:
    """A machine with one root, and a region with one repository that is made already."""

    def __init__(self, base: Path, gateway: Served) -> None:
        self.base, self.gateway = base, gateway
        self.root = base / "root"
        self.root.mkdir()
        self.roots = (Root("/root", str(self.root)),)
        self.stages: list[str] = []
        self.said: list[tuple[str, str]] = []
        self.repository = Repository.create(self.store, PASSWORD, scrypt=CHEAP)

    @property
    def store(self) -> LocalStore:
        return LocalStore(str(self.base / "region" / "repositories" / "repo"))

    def context(
        self,
        kind: str,
        *,
        credential: str = "full",
        attempt: int = 1,
        job_id: str = "job-1",
        put_only: bool = False,
        roots: tuple[Root, ...] | None = None,
        **spec: Any,
    ) -> JobContext:
        url = f"{self.gateway.url}/restic/repo/"
        return JobContext(
            job_id=job_id,
            kind=kind,
            attempt=attempt,
            spec=spec,
            repository={"id": "repo", "url": url, "password": PASSWORD},
            credential=credential,
            host_name="gpu-7",
            roots=self.roots if roots is None else roots,
            put_only=put_only,
            workers=0,
            state_directory=str(self.base / "state"),
            cache_directory=str(self.base / "cache"),
            drill_directory=str(self.base / "drills"),
            report=lambda stage, _progress: self.stages.append(stage),
            say=lambda level, text: self.said.append((level, text)),
        )

    def do(self, kind: str, **more: Any) -> JobEnd:
        return jobs.run(self.context(kind, **more), 1)

    def back_up(self, path: str = "/root", **more: Any) -> dict[str, Any]:
        """Back up; return the result. There must be no findings."""
        end = self.do("backup", snapshot_id="s-1", path=path, **more)
        assert end.findings == ()
        return end.result


@contextmanager
def workplace(base: Path) -> Iterator[Workplace]:
    with served(base / "region") as gateway:
        yield Workplace(base, gateway)
