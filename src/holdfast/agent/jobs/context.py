"""What a job is done with, and what comes of it.

A context carries values and two ways to speak, and knows how to open the job's repository,
and the one that a copy is made from. It decides nothing about the job. Nothing in it is
shown: it holds the host's credential and the repositories' passwords.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from holdfast.agent.mailbox import Mailbox
from holdfast.errors import (
    HoldfastError,
    NotARepository,
    RepositoryExists,
    StoreDenied,
    StoreUnavailable,
    UsageError,
)
from holdfast.model.finding import Finding
from holdfast.model.guarded_path import Root
from holdfast.model.progress import Progress
from holdfast.repo.repository import Repository
from holdfast.runners.choice import DEFAULTS, RunnerOptions
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore
from holdfast.store.retry import Retry
from holdfast.store.throttle import ThrottledStore

WAIT_FOR_LOCK_SECONDS: Final = 60.0
MOST_FINDINGS: Final = 1000
_GONE: Final = (
    "The region's store does not have the repository that was there; nothing was written. Ask the "
    "operator whether the store is mounted and still the same. What is lost for good is declared "
    "so with `holdfast repository lost`; the next backup then makes the repository anew."
)
_USER_NAME: Final = "holdfast-agent"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """What a job reports. With `error` it failed, and the findings say what is wrong."""

    result: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    error: HoldfastError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """One job. `repository` is ``{id, url, password, exists}``, `url` a gateway's address;
    one that exists is never made anew, because its store may only be out of sight.

    `source` is the same of the repository that a copy is made from; other jobs have none.
    `report` is told progress with its stage, `say` a line for the job's log with its level.
    `task_directory` is where tasks live on this host, `runners` what may run them, and
    `drill_directory` where drills may restore to; through `mailbox` a task and the control
    plane speak while it runs.
    """

    job_id: str
    kind: str
    attempt: int
    spec: Mapping[str, Any]
    repository: Mapping[str, Any] = field(repr=False)
    credential: str = field(repr=False)
    host_name: str
    roots: tuple[Root, ...]
    put_only: bool
    workers: int
    state_directory: str
    cache_directory: str
    ca_certificate: str | None = None
    limit_upload: float | None = None
    limit_download: float | None = None
    source: Mapping[str, Any] | None = field(default=None, repr=False)
    task_directory: str = ""
    drill_directory: str = ""
    runners: RunnerOptions = DEFAULTS
    mailbox: Mailbox | None = None
    report: Callable[[str, Progress], None]
    say: Callable[[str, str], None]

    def stage(self, name: str) -> Callable[[Progress], None]:
        """Announce a stage; return what flows are given to report with."""
        self.report(name, Progress(name))
        return lambda progress: self.report(name, progress)

    @contextmanager
    def opened_repository(self, *, make: bool = False) -> Iterator[Repository]:
        """The job's repository; with `make` it is made where there is none.

        Two that make it at the same time end up with the same one.
        """
        with self._opened(self.repository, make=make) as repository:
            yield repository

    @contextmanager
    def opened_source(self) -> Iterator[Repository]:
        """The repository that a copy is made from."""
        if self.source is None:
            self._refuse("source")
        with self._opened(self.source, make=False) as repository:
            yield repository

    @contextmanager
    def _opened(self, place: Mapping[str, Any], *, make: bool) -> Iterator[Repository]:
        store = self._open_store(str(place["url"]))
        try:
            yield self._open(store, place, make=make)
        finally:
            store.close()

    def _open(self, store: ObjectStore, place: Mapping[str, Any], *, make: bool) -> Repository:
        password, cache = str(place["password"]), self.cache_directory or None
        try:
            return Repository.open(store, password, cache_directory=cache)
        except NotARepository:
            if place.get("exists"):
                raise StoreUnavailable(_GONE) from None
            if not make:
                raise
        self.say("info", "Making the repository, as there is none yet.")
        try:
            return Repository.create(store, password, cache_directory=cache)
        except (RepositoryExists, StoreDenied) as error:
            # Somebody else was first. Who may not delete is refused a tidying up after that.
            try:
                return Repository.open(store, password, cache_directory=cache)
            except NotARepository:
                raise error from None

    def text(self, name: str) -> str:
        """A member of the spec that has to be a text."""
        value = self.spec.get(name)
        if not isinstance(value, str) or not value:
            self._refuse(name)
        return value

    def texts(self, name: str) -> list[str]:
        """A member of the spec that is a list of texts; empty where it is missing."""
        value = self.spec.get(name) or []
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._refuse(name)
        return value

    def _refuse(self, name: str) -> NoReturn:
        raise UsageError(
            f"The job's {name} is not what a {self.kind} needs; is the server of another version?"
        )

    def _open_store(self, url: str) -> ObjectStore:
        options = StoreOptions(
            rest_username=_USER_NAME,
            rest_password=self.credential,
            ca_certificate=self.ca_certificate,
        )
        # Always the gateway: nobody can make this host write into a directory of its own.
        store = open_store(f"rest:{url}", options, report_retry=self._say_retry, environment={})
        if self.limit_upload is None and self.limit_download is None:
            return store
        return ThrottledStore(
            store,
            read_bytes_per_second=self.limit_download,
            write_bytes_per_second=self.limit_upload,
        )

    def _say_retry(self, retry: Retry) -> None:
        self.say("warning", f"{retry.error.message} Next attempt in {retry.pause_seconds:.0f} s.")


def limited(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """No more findings than a report should have; one more says how many were left out."""
    listed = tuple(findings)
    if len(listed) <= MOST_FINDINGS:
        return listed
    kept = MOST_FINDINGS - 1
    message = f"{len(listed) - kept} more findings are in the snapshot and not listed here"
    return (*listed[:kept], Finding("findings_omitted", message))
