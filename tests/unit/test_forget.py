"""Forget: the plan says what goes and why; only records of snapshots are removed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sample_repository import NOW, fill, flip, make, pack_ids, save

from holdfast.errors import Conflict, NotFound, UsageError
from holdfast.flows.forget import ForgetRequest, forget, plan_forget
from holdfast.model.grouping import GroupBy
from holdfast.model.retention import RetentionPolicy
from holdfast.repo.repository import FileKind, Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = make()
    fill(tmp_path, {"x": 10})
    for day in range(5):
        for host in ("one", "two"):
            save(
                repository,
                tmp_path,
                hostname=host,
                time=NOW + timedelta(days=day),
                tags=("odd",) if day % 2 else (),
            )
    return repository


def request(**options: object) -> ForgetRequest:
    return ForgetRequest(now=NOW + timedelta(days=9), **options)  # type: ignore[arg-type]


def test_rules_count_within_each_group_and_say_why(repository: Repository) -> None:
    plan = plan_forget(repository, request(policy=RetentionPolicy(keep_last=2)))
    assert [key.host for key, _ in plan.groups] == ["one", "two"]
    assert (len(plan.kept), len(plan.removed)) == (4, 6)
    for _, decisions in plan.groups:
        assert [decision.keep for decision in decisions] == [True, True, False, False, False]
        assert decisions[0].reasons == ("last snapshot",)
        assert decisions[2].reasons == ("not kept by any rule",)


def test_forgetting_removes_records_and_nothing_else(repository: Repository) -> None:
    plan = plan_forget(repository, request(policy=RetentionPolicy(keep_last=2)))
    before = {info.key for info in repository.store.list("")}
    result = forget(repository, plan)
    after = {info.key for info in repository.store.list("")}
    assert before - after == {f"snapshots/{name}" for name in result.removed}
    assert after <= before
    assert set(repository.ids(FileKind.SNAPSHOT)) == set(plan.kept)
    assert forget(repository, plan).removed == plan.removed, "doing it again is no error"
    assert pack_ids(repository)


def test_planning_removes_nothing(repository: Repository) -> None:
    plan_forget(repository, request(policy=RetentionPolicy(keep_last=1)))
    assert len(repository.ids(FileKind.SNAPSHOT)) == 10


def test_no_rule_removes_nothing(repository: Repository) -> None:
    assert plan_forget(repository, request()).removed == ()


def test_groups_can_be_joined_and_snapshots_filtered(repository: Repository) -> None:
    policy = RetentionPolicy(keep_last=3)
    joined = plan_forget(repository, request(policy=policy, group_by=GroupBy.parse("")))
    assert len(joined.kept) == 3
    one = plan_forget(repository, request(policy=policy, hosts=("one",)))
    assert (len(one.kept), len(one.removed)) == (3, 2)
    odd = plan_forget(repository, request(policy=RetentionPolicy(keep_last=1), tags=(("odd",),)))
    assert (len(odd.kept), len(odd.removed)) == (2, 2)
    assert plan_forget(repository, request(policy=policy, paths=("/other",))).groups == ()


def test_what_is_held_stays(repository: Repository) -> None:
    oldest = repository.snapshots()[0][0].id
    plan = plan_forget(
        repository, request(policy=RetentionPolicy(keep_last=1), held=frozenset({oldest}))
    )
    assert oldest in plan.kept
    with pytest.raises(Conflict, match="held"):
        plan_forget(repository, request(ids=(oldest,), held=frozenset({oldest})))


def test_named_snapshots_go(repository: Repository) -> None:
    snapshots = repository.snapshots()[0]
    names = (snapshots[0].id[:10], "latest", snapshots[0].id)
    plan = plan_forget(repository, request(ids=names))
    assert set(plan.removed) == {snapshots[0].id, snapshots[-1].id}
    forget(repository, plan)
    assert len(repository.ids(FileKind.SNAPSHOT)) == 8


def test_wishes_that_cannot_be_are_refused(repository: Repository) -> None:
    with pytest.raises(NotFound):
        plan_forget(repository, request(ids=("ffffffffffff",)))
    with pytest.raises(UsageError):
        request(ids=("latest",), policy=RetentionPolicy(keep_last=1))
    for tags in (((),), (("odd",), ())):
        with pytest.raises(UsageError, match="list of tags is empty"):
            request(policy=RetentionPolicy(keep_last=1), tags=tags)
    everything = RetentionPolicy(keep_tags=(("never",),))
    with pytest.raises(UsageError, match="remove all"):
        plan_forget(repository, request(policy=everything))
    assert (
        len(plan_forget(repository, request(policy=everything, allow_remove_all=True)).removed)
        == 10
    )
    with pytest.raises(Conflict):
        forget(make(), plan_forget(repository, request(policy=RetentionPolicy(keep_last=1))))


def test_an_unreadable_record_is_never_forgotten_by_a_rule(repository: Repository) -> None:
    damaged = repository.snapshots()[0][0].id
    flip(repository.store, f"snapshots/{damaged}", 30)
    plan = plan_forget(repository, request(policy=RetentionPolicy(keep_last=1)))
    assert damaged not in plan.removed
    assert [finding.code for finding in plan.findings] == ["snapshot_damaged"]
    forget(repository, plan)
    assert damaged in repository.ids(FileKind.SNAPSHOT)


def test_backups_may_run_meanwhile(repository: Repository) -> None:
    plan = plan_forget(repository, request(policy=RetentionPolicy(keep_last=1)))
    with repository.lock("backup"), repository.lock("prune", exclusive=True, tolerates={"backup"}):
        forget(repository, plan)
