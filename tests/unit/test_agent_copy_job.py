"""A copy into another region as its keeper does it: two real repositories, real gateways.

Spec line S6: copies in another region, each a restore point of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace
from gateway_server import FULL, Served, Table, serving
from sample_repository import (
    CHEAP,
    contents,
    expected,
    fill,
    flip,
    keys_of,
    marked,
    pack_ids,
    packs_holding,
)

from holdfast.agent import jobs
from holdfast.agent.jobs.context import JobContext, JobEnd
from holdfast.errors import Damaged, NotFound, UsageError
from holdfast.flows.prune import PruneLimits, PruneRequest, plan_prune, prune
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.gateway.authority import Grant
from holdfast.model.progress import Progress
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.store.local import LocalStore
from holdfast.store.throttle import ThrottledStore

FAR_PASSWORD = "of the other region"
KEEPER = "keeper"


class Keepers(Table):
    """The keeper of the other region may do everything there, and here only read."""

    def resolve(self, credential: str, **asked: str | None) -> Grant:
        grant = super().resolve(credential, **asked)
        if credential == KEEPER and grant.repository_id == "repo":
            return replace(grant, rights=frozenset({"read"}))
        return grant


class Regions(Workplace):
    """A workplace whose repository is the source, and the place of another in another region."""

    def __init__(self, base: Path, gateway: Served) -> None:
        super().__init__(base, gateway)
        self.progress: list[Progress] = []

    @property
    def far_store(self) -> LocalStore:
        return LocalStore(str(self.base / "far" / "repositories" / "far"))

    @property
    def far(self) -> Repository:
        return Repository.open(self.far_store, FAR_PASSWORD)

    def make_far(self) -> Repository:
        return Repository.create(self.far_store, FAR_PASSWORD, scrypt=CHEAP)

    def copying(self, manifest_id: str, job_id: str = "copy-1", **more: Any) -> JobContext:
        base = f"{self.gateway.url}/restic"
        source = {**self.context("copy").repository}
        spec = {
            "snapshot_id": "c-1",
            "copy_of_id": "s-1",
            "manifest_id": manifest_id,
            "source_repository_id": "repo",
            "source_region_id": "here",
        }
        context = self.context("copy", credential=KEEPER, job_id=job_id)
        usual: dict[str, Any] = {
            "spec": spec,
            "repository": {"id": "far", "url": f"{base}/far/", "password": FAR_PASSWORD},
            "source": source,
            "roots": (),
            "report": lambda _stage, progress: self.progress.append(progress),
        }
        return replace(context, **(usual | more))

    def copy(self, manifest_id: str, **more: Any) -> JobEnd:
        return jobs.run(self.copying(manifest_id, **more), 1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Regions]:
    table = Keepers()
    table.add_repository("repo", str(tmp_path / "region"))
    table.add_repository("far", str(tmp_path / "far"))
    table.allow("full", *FULL)
    table.allow(KEEPER, *FULL)
    with serving(table) as (url, room):
        gateway = Served(url, room, table)
        try:
            made = Regions(tmp_path, gateway)
            fill(made.root, {"a": 300_000, "x/b": 40_000})
            yield made
        finally:
            gateway.client.close()


def is_whole(repository: Repository) -> bool:
    return verify(repository, VerifyRequest(read_data=True, workers=0)).clean


def locks(place: Regions) -> list[str]:
    return [*place.repository.ids(FileKind.LOCK), *place.far.ids(FileKind.LOCK)]


def test_a_snapshot_is_pulled_whole_into_a_repository_that_is_made_for_it(place: Regions) -> None:
    """S6: with its own key and place; the keeper only reads in the other region."""
    manifest_id = place.back_up()["manifest_id"]
    before = set(keys_of(place.store, FileKind.SNAPSHOT))
    end = place.copy(manifest_id)
    assert (end.error, end.findings) == (None, ())
    (made,), _ = place.far.snapshots()
    assert end.result["manifest_id"] == made.id != manifest_id
    assert made.original == manifest_id
    assert end.result["was_there"] is False
    assert end.result["stored_bytes"] == sum(info.size_bytes for _, info in place.far.pack_files())
    assert end.result["bytes_read"] > 340_000
    assert place.progress[-1].bytes_done == place.progress[-1].bytes_total > 340_000
    assert contents(place.far, made) == expected(place.root)
    assert is_whole(place.far)
    assert locks(place) == []
    assert set(keys_of(place.store, FileKind.SNAPSHOT)) == before, "nothing is written there"


def test_only_what_is_new_travels(place: Regions) -> None:
    place.make_far()
    place.copy(place.back_up()["manifest_id"])
    fill(place.root, {"c": 50_000})
    end = place.copy(place.back_up(job_id="job-2")["manifest_id"], job_id="copy-2")
    assert 50_000 < end.result["stored_bytes"] < 60_000
    assert 50_000 < end.result["bytes_read"] < 60_000


def test_an_attempt_that_was_killed_before_its_report_is_taken_over(place: Regions) -> None:
    """The next attempt reports the same copy, with what it took, and stores no other."""
    place.make_far()
    manifest_id = place.back_up()["manifest_id"]

    def killed(_level: str, text: str) -> None:
        if text.startswith("Stored the copy"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.copy(manifest_id, say=killed)
    (stored,), _ = place.far.snapshots()
    packs = pack_ids(place.far)
    again = place.copy(manifest_id, attempt=2)
    assert again.result == {
        "manifest_id": stored.id,
        "stored_bytes": sum(info.size_bytes for _, info in place.far.pack_files()),
        "bytes_read": again.result["bytes_read"],
        "was_there": True,
    }
    assert again.result["bytes_read"] > 340_000
    assert place.far.ids(FileKind.SNAPSHOT) == [stored.id]
    assert pack_ids(place.far) == packs


def test_the_copy_of_another_job_is_not_taken_over(place: Regions) -> None:
    """Its record may be removed any time; what both need is stored once."""
    place.make_far()
    manifest_id = place.back_up()["manifest_id"]
    first = place.copy(manifest_id).result["manifest_id"]
    packs = pack_ids(place.far)
    for attempt in (1, 2):
        second = place.copy(manifest_id, job_id="copy-2", attempt=attempt).result
        assert second["was_there"] == (attempt == 2)
        assert second["stored_bytes"] == second["bytes_read"] == 0
    assert second["manifest_id"] != first
    assert set(place.far.ids(FileKind.SNAPSHOT)) == {first, second["manifest_id"]}
    assert pack_ids(place.far) == packs
    place.far.remove(FileKind.SNAPSHOT, first)
    (left,), _ = place.far.snapshots()
    assert contents(place.far, left) == expected(place.root)


def test_a_comparison_with_the_catalog_names_the_job_that_copied(place: Regions) -> None:
    place.copy(place.back_up()["manifest_id"])
    comparing = place.context("reconcile", known=[], older_than="2100-01-01T00:00:00+00:00")
    context = replace(comparing, repository=place.copying("x").repository)
    orphans = jobs.run(context, 1).result["orphans"]
    assert list(orphans.values()) == ["copy-1"]


def test_a_copy_of_a_copy_is_the_copy_of_its_own_job(place: Regions) -> None:
    first = place.copy(place.back_up()["manifest_id"]).result["manifest_id"]
    there, back = place.copying(first), place.context("copy").repository
    spec = {**there.spec, "source_repository_id": "far"}
    context = replace(
        there, credential="full", job_id="copy-2", spec=spec, source=there.repository,
        repository=back,
    )  # fmt: skip
    made = place.repository.snapshot(jobs.run(context, 1).result["manifest_id"])
    assert made.copy_note["job"] == "copy-2"
    assert made.original == place.far.snapshot(first).original


def test_what_is_damaged_is_refused_with_findings_and_nothing_is_committed(
    place: Regions,
) -> None:
    place.make_far()
    manifest_id = place.back_up()["manifest_id"]
    for pack in packs_holding(place.repository, BlobType.DATA):
        flip(place.store, pack_key(pack), 1000)
    end = place.copy(manifest_id)
    assert isinstance(end.error, Damaged)
    codes = [(finding.code, finding.subject) for finding in end.findings]
    assert codes[0][0] == "pack_damaged"
    assert codes[-1] == ("snapshot_not_copied", manifest_id)
    assert place.far.ids(FileKind.SNAPSHOT) == []
    assert locks(place) == []
    assert is_whole(place.far)


def test_a_cancelled_copy_leaves_no_restore_point_and_no_lock(place: Regions) -> None:
    place.make_far()
    manifest_id = place.back_up()["manifest_id"]

    def cancelled(_stage: str, progress: Progress) -> None:
        if progress.bytes_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.copy(manifest_id, report=cancelled)
    assert place.far.ids(FileKind.SNAPSHOT) == []
    assert locks(place) == []
    assert place.copy(manifest_id, attempt=2).result["was_there"] is False
    assert is_whole(place.far)


def test_a_prune_beside_a_copy_takes_nothing_that_it_counts_on(place: Regions) -> None:
    """What an attempt before has left is needed by no snapshot, until this one is committed."""
    place.make_far()
    manifest_id = place.back_up()["manifest_id"]
    left = place.copy(manifest_id).result["manifest_id"]
    place.far.remove(FileKind.SNAPSHOT, left)
    done: list[int] = []

    def pruned(now: datetime | None = None) -> int:
        limits = PruneLimits(max_unused_percent=0)
        plan = plan_prune(place.far, PruneRequest(limits, workers=0, now=now))
        outcome = prune(place.far, plan, now=now).outcome
        return outcome.marked if now is None else outcome.deleted

    def beside(_stage: str, progress: Progress) -> None:
        if not done and place.far.ids(FileKind.LOCK):
            assert progress.bytes_total == 0, "nothing has to be sent"
            done.append(pruned())
            assert len(marked(place.far)) == 2

    end = place.copy(manifest_id, job_id="copy-2", report=beside)
    assert done == [2], "the pack of data and the one of trees"
    assert marked(place.far) == set(), "the copy took the marks back"
    assert end.result["stored_bytes"] == 0, "it counted on both"
    made = place.far.snapshot(end.result["manifest_id"])
    assert contents(place.far, made) == expected(place.root)
    assert pruned(datetime.now(UTC) + timedelta(days=3)) == 0
    assert contents(place.far, made) == expected(place.root)
    assert is_whole(place.far)


def test_a_snapshot_that_is_not_there_makes_no_repository(place: Regions) -> None:
    with pytest.raises(NotFound, match="nothing was copied"):
        place.copy("ab" * 32)
    assert not (place.base / "far").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"put_only": True},
        {"source": None},
        {"source": {"id": "another", "url": "http://127.0.0.1:1/", "password": "p"}},
        {"spec": {"source_repository_id": "repo"}},
        {"spec": {"source_repository_id": "repo", "manifest_id": "latest"}},
        {"spec": {"manifest_id": "ab" * 32}},
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_opened(
    place: Regions, changed: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        place.copy("ab" * 32, **changed)
    assert not (place.base / "far").exists()


def test_the_hosts_limits_hold_for_both_repositories(place: Regions) -> None:
    place.make_far()
    context = place.copying("x", limit_download=1e9, limit_upload=1e9)
    with context.opened_source() as source, context.opened_repository() as destination:
        for repository in (source, destination):
            assert isinstance(repository.store, ThrottledStore)
        assert source.cache_directory != destination.cache_directory


def test_a_context_shows_no_password(place: Regions) -> None:
    assert FAR_PASSWORD not in repr(place.copying("x"))
    assert "correct horse" not in repr(place.copying("x"))
