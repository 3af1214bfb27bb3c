"""A keeper's jobs through a real gateway: verify, remove, prune, measure, reconcile."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace, workplace
from sample_repository import fill, flip, pack_list, packs_holding, replace

from holdfast.agent import jobs
from holdfast.errors import NotARepository, StoreUnavailable, UsageError
from holdfast.flows.merge_index import MANY_FILES, merge_index_files
from holdfast.flows.prune import PrunePlan, plan_prune
from holdfast.repo.indexfile import encode_index
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


def many_index_files(place: Workplace) -> None:
    """As captures leave them, each every two seconds."""
    packs = pack_list(place.repository)
    text = encode_index([packs.listing(number, None) for number in range(len(packs))])
    for _ in range(MANY_FILES):
        place.repository.save(FileKind.INDEX, text)


def test_measuring_merges_many_small_index_files(place: Workplace) -> None:
    first, second = two_snapshots(place)
    before = place.do("measure").result
    assert len(place.repository.ids(FileKind.INDEX)) == 2, "so few are left alone"
    many_index_files(place)
    with place.repository.lock(""):  # restic's, which would miss what is replaced
        assert place.do("measure").result == before
    assert len(place.repository.ids(FileKind.INDEX)) > MANY_FILES
    assert place.do("measure").result == before
    assert len(place.repository.ids(FileKind.INDEX)) == 1
    assert set(before["shares"]) == {first, second}
    assert place.do("verify", share={"number": 1, "of": 1}).result["clean"] is True


def test_a_prune_plans_again_where_index_files_were_merged_meanwhile(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = two_snapshots(place)
    place.do("remove", snapshots=[{"snapshot_id": "s", "manifest_id": first}])
    planned = []

    def plan_and_merge(*arguments: Any) -> PrunePlan:
        planned.append(plan_prune(*arguments))
        if len(planned) == 1:
            assert merge_index_files(place.repository, many=2).replaced == 2
        return planned[-1]

    monkeypatch.setattr("holdfast.agent.jobs.prune.plan_prune", plan_and_merge)
    assert place.do("prune", max_unused_percent=0).result["marked_bytes"] > 290_000
    assert len(planned) == 2


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


@pytest.mark.parametrize("kind", ["backup", "verify"])
def test_a_repository_that_was_there_is_not_made_anew(place: Workplace, kind: str) -> None:
    """Its store may only be out of sight, and what is written now would lie beneath it."""
    for info in list(place.store.list("")):
        place.store.delete(info.key)
    context = place.context(kind, snapshot_id="s-1", path="/root")
    known = {**context.repository, "exists": True}
    with pytest.raises(StoreUnavailable, match="nothing was written") as caught:
        jobs.run(dataclasses.replace(context, repository=known), 1)
    assert caught.value.retryable
    assert list(place.store.list("")) == []
    jobs.run(place.context("backup", snapshot_id="s-1", path="/root"), 1)
    assert place.repository.ids(FileKind.SNAPSHOT)


def test_what_this_version_does_not_know_is_refused(place: Workplace) -> None:
    for kind, version in (("context", 1), ("backup", 2), ("..context", 1)):
        with pytest.raises(UsageError, match="install"):
            jobs.run(place.context(kind), version)
