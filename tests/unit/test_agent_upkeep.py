"""A keeper's jobs through a real gateway: verify, remove, prune, measure, reconcile."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_jobs import Workplace, workplace
from sample_repository import fill, flip, packs_holding, replace

from holdfast.agent import jobs
from holdfast.errors import NotARepository, UsageError
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, pack_key


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace(tmp_path) as made:
        fill(made.root, {"a": 300_000, "x/b": 40_000})
        yield made


def two_snapshots(place: Workplace) -> tuple[str, str]:
    first = place.back_up()["manifest_id"]
    fill(place.root, {"a": 200_000}, seed=1)
    return first, place.back_up(job_id="job-2")["manifest_id"]


def test_verify_reads_shares_that_together_are_everything(place: Workplace) -> None:
    """S5: structure always, contents by a rolling share."""
    two_snapshots(place)
    structure = place.do("verify", share=None).result
    assert structure["clean"] is True
    assert structure["packs_read"] == structure["bytes_read"] == 0
    results = [place.do("verify", share={"number": n, "of": 3}).result for n in (1, 2, 3)]
    assert sum(each["packs_read"] for each in results) == structure["packs_total"] > 0
    for share in ({}, {"number": "x", "of": 3}, {"number": 4, "of": 3}, [1, 3]):
        with pytest.raises(UsageError):
            place.do("verify", share=share)


def test_verify_names_what_is_damaged(place: Workplace) -> None:
    first, second = two_snapshots(place)
    for pack in packs_holding(place.repository, BlobType.DATA):
        if place.store.size(pack_key(pack)) > 250_000:  # the first run's
            flip(place.store, pack_key(pack), 1000)
    end = place.do("verify", share={"number": 1, "of": 1})
    assert end.result["clean"] is False
    assert set(end.result["damaged"]) <= {first, second}
    assert first in end.result["damaged"]
    assert all(path.startswith("/root/") for path in end.result["damaged"][first])
    assert end.result["damaged_packs"]
    assert end.findings


def test_remove_forgets_by_id_and_again_is_no_error(place: Workplace) -> None:
    """S4: what is gone already counts as removed."""
    first, second = two_snapshots(place)
    asked = [{"snapshot_id": each[:8], "manifest_id": each} for each in (first, "ab" * 32)]
    for _ in range(2):
        end = place.do("remove", snapshots=asked)
        assert end.result == {"removed": [first, "ab" * 32]}
        assert place.repository.ids(FileKind.SNAPSHOT) == [second]


def test_remove_also_takes_a_record_that_cannot_be_read(place: Workplace) -> None:
    first, second = two_snapshots(place)
    replace(place.store, f"snapshots/{first}", b"rubbish")
    place.do("remove", snapshots=[{"snapshot_id": "s", "manifest_id": first}])
    assert place.repository.ids(FileKind.SNAPSHOT) == [second]


@pytest.mark.parametrize(
    "asked",
    [None, [{}], [{"snapshot_id": "s", "manifest_id": "latest"}], [{"manifest_id": "ab" * 32}]],
)
def test_remove_takes_whole_ids_only(place: Workplace, asked: object) -> None:
    two_snapshots(place)
    with pytest.raises(UsageError):
        place.do("remove", snapshots=asked)
    assert len(place.repository.ids(FileKind.SNAPSHOT)) == 2


def test_measure_and_prune_agree_on_what_is_stored(place: Workplace) -> None:
    first, second = two_snapshots(place)
    measured = place.do("measure").result
    shares = measured["shares"]
    assert set(shares) == {first, second}
    assert sum(each["share_bytes"] for each in shares.values()) == measured["stored_bytes"]
    assert shares[first]["freed_bytes"] > 290_000
    assert shares[first]["share_bytes"] - shares[first]["freed_bytes"] > 19_000, "half of x/b"
    place.do("remove", snapshots=[{"snapshot_id": "s", "manifest_id": first}])
    pruned = place.do("prune", max_unused_percent=0).result
    assert pruned["freed_bytes"] == 0, "what is marked is deleted a day later"
    assert pruned["marked_bytes"] > 290_000
    again = place.do("measure").result
    assert pruned["stored_bytes"] == again["stored_bytes"]
    assert again["stored_bytes"] == measured["stored_bytes"] - shares[first]["freed_bytes"]
    assert place.do("verify").result["clean"] is True


def test_reconcile_compares_and_removes_nothing(place: Workplace) -> None:
    first, second = two_snapshots(place)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    spec = {"known": [second, "ab" * 32]}
    end = place.do("reconcile", **spec, older_than=yesterday)
    assert end.result == {"missing": ["ab" * 32], "orphans": {}, "young": [first]}
    end = place.do("reconcile", **spec, older_than=tomorrow)
    assert list(end.result["orphans"]) == [first]
    assert isinstance(end.result["orphans"][first], str), "with the job that made it"
    assert (end.result["missing"], end.result["young"]) == (["ab" * 32], [])
    assert place.repository.ids(FileKind.SNAPSHOT) == sorted([first, second])
    for moment in ("soon", "2026-01-01T00:00:00"):
        with pytest.raises(UsageError):
            place.do("reconcile", **spec, older_than=moment)


def test_upkeep_makes_no_repository(place: Workplace) -> None:
    for info in list(place.store.list("")):
        place.store.delete(info.key)
    for kind in ("verify", "measure", "prune"):
        with pytest.raises(NotARepository):
            place.do(kind)
    assert list(place.store.list("")) == []


def test_what_this_version_does_not_know_is_refused(place: Workplace) -> None:
    for kind, version in (("context", 1), ("backup", 2), ("..context", 1)):
        with pytest.raises(UsageError, match="install"):
            jobs.run(place.context(kind), version)
