"""Reconciling a repository with a catalog: what each has that the other one lacks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sample_repository import fill, make, save

from holdfast.errors import UsageError
from holdfast.flows.reconcile import JOB_TAG, compare, job_of
from holdfast.repo.repository import FileKind, Repository

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    fill(tmp_path / "d", {"a": 10})
    return make()


def of_job(repository: Repository, tmp_path: Path, job: str, time: datetime | None = None) -> str:
    return save(repository, tmp_path / "d", tags=(f"{JOB_TAG}{job}",), time=time).id


def test_only_old_snapshots_of_unknown_jobs_are_orphans(
    repository: Repository, tmp_path: Path
) -> None:
    known = of_job(repository, tmp_path, "known")
    orphan = of_job(repository, tmp_path, "orphan")
    persons = save(repository, tmp_path / "d", tags=("mine",)).id
    found = compare(repository, [known], older_than=LATER)
    assert [(snapshot.id, job_of(snapshot)) for snapshot in found.orphans] == [(orphan, "orphan")]
    assert found.missing == ()
    assert set(repository.ids(FileKind.SNAPSHOT)) == {known, orphan, persons}, "nothing changes"


def test_what_was_stored_lately_may_still_be_reported(
    repository: Repository, tmp_path: Path
) -> None:
    """A run of days was stored just now, whatever time its snapshot shows."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    young = of_job(repository, tmp_path, "young", time=old)
    found = compare(repository, [], older_than=datetime.now(UTC) - timedelta(minutes=5))
    assert found.orphans == ()
    assert found.young == (young,)


def test_what_the_catalog_knows_and_the_repository_lacks(
    repository: Repository, tmp_path: Path
) -> None:
    there = of_job(repository, tmp_path, "a")
    found = compare(repository, [there, "ab" * 32], older_than=LATER)
    assert found.missing == ("ab" * 32,)
    assert found.orphans == ()


def test_a_record_that_cannot_be_read_is_neither(repository: Repository, tmp_path: Path) -> None:
    damaged = of_job(repository, tmp_path, "a")
    repository.store.delete(f"snapshots/{damaged}")
    repository.store.create(f"snapshots/{damaged}", b"rubbish")
    for known in ([damaged], []):
        found = compare(repository, known, older_than=LATER)
        assert (found.orphans, found.missing) == ((), ())
        assert [finding.subject for finding in found.findings] == [damaged]


def test_a_time_needs_a_zone(repository: Repository) -> None:
    with pytest.raises(UsageError, match="zone"):
        compare(repository, [], older_than=datetime(2026, 1, 1))
