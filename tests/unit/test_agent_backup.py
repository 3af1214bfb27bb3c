"""Backup jobs through a real gateway: what is stored, read back, adopted and reported."""

from __future__ import annotations

import dataclasses
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace, workplace
from sample_repository import PASSWORD, contents, expected, fill, packs_holding, replace

from holdfast.agent import jobs
from holdfast.agent.jobs import archive as archive_module
from holdfast.agent.jobs import backup as backup_module
from holdfast.agent.jobs.context import JobEnd
from holdfast.errors import (
    BadPattern,
    Damaged,
    PathEscapesRoot,
    PathOutsideRoots,
    SourceVanished,
    StoreDenied,
    UsageError,
)
from holdfast.flows import backup as flow_module
from holdfast.flows.export_archive import export_archive
from holdfast.flows.locate import Trees, locate
from holdfast.model.guarded_path import Root
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.store.throttle import TokenBucket


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace(tmp_path) as made:
        yield made


def test_a_backup_is_stored_read_back_and_reported(place: Workplace) -> None:
    """B4: read, deduplicated, uploaded, verified by reading it back."""
    fill(place.root, {"a": 300_000, "models/b": 1000})
    result = place.back_up(source_id="source-1", put_only=False)
    assert result["verified"] is True
    assert result["verified_by"] == "read"
    assert result["files"] == 2
    assert result["logical_bytes"] == result["read_bytes"] == 301_000
    assert result["stored_bytes"] > 300_000
    assert result["consistency"] == "per_file"
    (snapshot,), _ = place.repository.snapshots()
    assert snapshot.id == result["manifest_id"]
    assert snapshot.paths == ("/root",)
    assert snapshot.hostname == "gpu-7"
    assert set(snapshot.tags) == {
        "holdfast-job=job-1",
        "holdfast-snapshot=s-1",
        "holdfast-source=source-1",
    }
    assert contents(place.repository, snapshot) == expected(place.root)
    assert list(dict.fromkeys(place.stages)) == ["reading", "verifying"]


def test_the_recorded_path_is_the_one_that_people_write(place: Workplace) -> None:
    """B2: below a root that lies elsewhere on the machine, and nothing of that is in the tree."""
    fill(place.root, {"models/deep/b": 10})
    place.back_up("/root/models")
    (snapshot,), _ = place.repository.snapshots()
    assert snapshot.paths == ("/root/models",)
    index = place.repository.open_index()
    trees = Trees(BlobReader(place.repository, index))
    assert locate(trees, snapshot, b"root/models/deep/b").node is not None
    names = [node.name for node in trees.nodes(bytes.fromhex(snapshot.tree))]
    assert names == [b".holdfast", b"root"]


def test_the_next_backup_reads_only_what_changed(place: Workplace) -> None:
    fill(place.root, {"a": 100_000, "b": 50_000})
    old = place.root.stat().st_mtime - 1000
    for path in place.root.iterdir():
        os.utime(path, (old, old))
    first = place.back_up()
    fill(place.root, {"b": 60_000}, seed=1)
    second = place.back_up(job_id="job-2", parent_manifest_id=first["manifest_id"])
    assert second["files"] == 2
    assert second["stored_bytes"] < 80_000
    assert place.repository.snapshot(second["manifest_id"]).parent == first["manifest_id"]


def test_a_parent_that_is_gone_is_no_obstacle(place: Workplace) -> None:
    fill(place.root, {"a": 100})
    assert place.back_up(parent_manifest_id="ab" * 32)["files"] == 1


def test_one_file_can_be_a_source(place: Workplace) -> None:
    fill(place.root, {"models/a": 500, "models/b": 500})
    assert place.back_up("/root/models/a")["files"] == 1
    (snapshot,), _ = place.repository.snapshots()
    assert snapshot.paths == ("/root/models/a",)
    assert list(contents(place.repository, snapshot)) == ["a"]


def test_options_of_the_source(place: Workplace) -> None:
    fill(place.root, {"keep": 10, "cache/x": 10, "big": 5000})
    options = {"exclude": ["cache/"], "larger_than_bytes": 1000, "consistency": "live"}
    assert place.back_up(options=options)["files"] == 1
    with pytest.raises(BadPattern):
        place.back_up(options={"blacklist": ["("]})
    with pytest.raises(UsageError, match="consistency"):
        place.back_up(options={"consistency": "best"})
    end = place.do("backup", path="/root", options={"exclude": [], "colour": "red"})
    assert [finding.code for finding in end.findings] == ["option_unknown"]


# Where it may not lead


@pytest.mark.parametrize("path", ["/etc", "/", "/rootless", "/home/user/documents"])
def test_a_path_outside_the_roots(place: Workplace, path: str) -> None:
    with pytest.raises(PathOutsideRoots):
        place.back_up(path)


def test_a_path_that_climbs(place: Workplace) -> None:
    with pytest.raises(PathEscapesRoot):
        place.back_up("/root/../etc")


@pytest.mark.parametrize("target", ["/etc", "../../..", "."])
def test_a_symbolic_link_that_leads_out(place: Workplace, target: str) -> None:
    """B2: refused; but a link that stays inside is followed."""
    fill(place.root, {"inside/file": 10})
    (place.root / "inside/link").symlink_to(target)
    if target == ".":
        assert place.back_up("/root/inside/link")["files"]
        (snapshot,), _ = place.repository.snapshots()
        assert snapshot.paths == ("/root/inside/link",)
    else:
        with pytest.raises(PathEscapesRoot) as caught:
            place.back_up("/root/inside/link")
        assert caught.value.code == "path_escapes_root"
        assert place.repository.ids(FileKind.SNAPSHOT) == []


def test_the_root_itself_may_be_a_link(place: Workplace) -> None:
    """Whoever set the agent up chose it; what is inside may not lead out all the same."""
    fill(place.root, {"a": 10})
    link = place.base / "link"
    link.symlink_to(place.root)
    (place.root / "out").symlink_to(place.base)
    roots = (Root("/data", str(link)),)
    assert place.back_up("/data", roots=roots)["files"] == 1
    with pytest.raises(PathEscapesRoot):
        place.back_up("/data/out", roots=roots)


def test_links_inside_are_stored_as_links_and_not_followed(place: Workplace) -> None:
    fill(place.root, {"a": 10})
    (place.root / "out").symlink_to("/etc")
    assert place.back_up()["files"] == 1
    (snapshot,), _ = place.repository.snapshots()
    assert contents(place.repository, snapshot) == {"a": (place.root / "a").read_bytes()}


def test_a_path_that_is_not_there(place: Workplace) -> None:
    with pytest.raises(SourceVanished, match="/root/nothing"):
        place.back_up("/root/nothing")


def test_a_link_to_a_file_has_to_be_named_by_its_target(place: Workplace) -> None:
    fill(place.root, {"a": 10})
    (place.root / "b").symlink_to("a")
    with pytest.raises(UsageError, match="link"):
        place.back_up("/root/b")


def test_a_mapping_of_the_server_that_this_machine_does_not_have(place: Workplace) -> None:
    fill(place.root, {"models/a": 10})
    assert place.back_up("/root/models", directory=f"{place.root}/models")["files"] == 1
    with pytest.raises(PathOutsideRoots, match="settings"):
        place.back_up("/root/models", directory="/etc")


@pytest.mark.parametrize("moment", ["before the view", "after the view"])
def test_a_link_planted_while_it_is_looked_at_leads_nowhere(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A workload swaps its directory for a link to a secret that only the agent can read."""
    secret = place.base / "secret"
    fill(secret, {"shadow": b"secret"})
    fill(place.root, {"swapped/harmless": b"harmless"})
    here = place.root / "swapped"

    def swap() -> None:
        here.rename(place.root / "aside")
        here.symlink_to(secret)

    if moment == "before the view":
        flow = flow_module.backup

        def late_backup(*arguments: Any) -> Any:
            swap()
            return flow(*arguments)

        monkeypatch.setattr(backup_module, "backup", late_backup)
    else:
        within = flow_module._Run._within

        def late(run: Any, roots: tuple[bytes, ...]) -> tuple[bytes, ...]:
            swap()
            return within(run, roots)

        monkeypatch.setattr(flow_module._Run, "_within", late)
    with pytest.raises(PathEscapesRoot, match="/root/swapped"):
        place.back_up("/root/swapped")
    assert place.repository.ids(FileKind.SNAPSHOT) == []


# Put-only hosts


def put_only_backup(place: Workplace, **more: object) -> JobEnd:
    return place.do("backup", credential="put", put_only=True, path="/root", **more)


def test_a_put_only_host_adds_and_reports_truthfully(place: Workplace) -> None:
    """H2: it can add and read the index, and neither read nor delete."""
    fill(place.root, {"a": 200_000})
    first = put_only_backup(place).result
    assert first["verified"] is (first["verified_by"] == "read")
    assert first["verified_by"] in ("size", "none")
    second = put_only_backup(place, job_id="job-2", attempt=3).result
    assert second["adopted"] is False
    assert second["stored_bytes"] < 10_000, "known by the index, so nothing is sent again"
    snapshots, _ = place.repository.snapshots()
    assert [contents(place.repository, each) for each in snapshots] == [expected(place.root)] * 2
    assert place.repository.ids(FileKind.LOCK) == []
    with pytest.raises(StoreDenied):
        place.do("measure", credential="put")
    with pytest.raises(StoreDenied):
        place.do("restore", credential="put", manifest_id=first["manifest_id"], target="/root/new")
    with pytest.raises(StoreDenied):
        place.do(
            "remove",
            credential="put",
            snapshots=[{"snapshot_id": "s", "manifest_id": first["manifest_id"]}],
        )


def test_a_put_only_host_can_make_the_repository(place: Workplace) -> None:
    fill(place.root, {"a": 10})
    for info in list(place.store.list("")):
        place.store.delete(info.key)
    put_only_backup(place)
    repository = Repository.open(place.store, PASSWORD)
    assert len(repository.ids(FileKind.SNAPSHOT)) == 1


# Attempts after the first


def test_an_attempt_adopts_what_the_one_before_stored_unheard(place: Workplace) -> None:
    fill(place.root, {"a": 200_000, "b": 100})
    first = place.back_up()
    fill(place.root, {"c": 100})
    again = place.back_up(attempt=2)
    same = ("manifest_id", "files", "logical_bytes", "consistency", "captured_at", "stored_bytes")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert again["adopted"] is True
    assert again["verified_by"] == "read"
    assert len(place.repository.ids(FileKind.SNAPSHOT)) == 1


def test_an_attempt_adopts_nothing_of_another_job(place: Workplace) -> None:
    fill(place.root, {"a": 100})
    first = place.back_up()
    again = place.back_up(attempt=2, job_id="job-2")
    assert again["manifest_id"] != first["manifest_id"]


def test_what_is_adopted_is_read_back_first(place: Workplace) -> None:
    fill(place.root, {"a": 200_000})
    place.back_up()
    (pack,) = packs_holding(place.repository, BlobType.DATA)
    content = bytearray(place.store.read(pack_key(pack)))
    content[100] ^= 1
    replace(place.store, pack_key(pack), bytes(content))
    with pytest.raises(Damaged):
        place.back_up(attempt=2)


# ZIP archives


def archive(place: Workplace) -> Path:
    return place.base / "region" / "archives" / "repo" / "s-1.zip"


def test_a_zip_archive_is_written_besides(place: Workplace) -> None:
    """B8: one standard ZIP object per run, that any unzip tool reads."""
    fill(place.root, {"a": 3_000_000, "models/b": 1000, "empty": 0})
    result = place.back_up(archive_format="zip")
    assert archive(place).stat().st_size == result["archive_bytes"] > 3_000_000
    assert result["stored_bytes"] > 2 * 3_000_000
    with zipfile.ZipFile(archive(place)) as opened:
        assert opened.testzip() is None
        for name in ("a", "models/b", "empty"):
            assert opened.read(f"root/{name}") == (place.root / name).read_bytes()
    again = place.back_up(archive_format="zip", attempt=2)
    assert again["manifest_id"] == result["manifest_id"]
    assert again["archive_bytes"] == 0, "it was written already"
    spec = [{"snapshot_id": "s-1", "manifest_id": result["manifest_id"]}]
    place.do("remove", snapshots=spec)
    assert not archive(place).exists()


def test_an_archive_is_sent_no_faster_than_the_host_may(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place.root, {"a": 3_000_000})
    place.back_up()
    taken: list[int] = []

    class Counting(TokenBucket):
        def take(self, count_bytes: int) -> None:
            taken.append(count_bytes)
            super().take(count_bytes)

    monkeypatch.setattr(archive_module, "TokenBucket", Counting)
    context = place.context(
        "backup", attempt=2, snapshot_id="s-1", path="/root", archive_format="zip"
    )
    end = jobs.run(dataclasses.replace(context, limit_upload=1e9), 1)
    assert sum(taken) == end.result["archive_bytes"] > 3_000_000


def test_an_archive_that_broke_off_is_not_there(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place.root, {"a": 5_000_000})
    place.back_up()
    export = export_archive

    def breaks_off(*arguments: Any) -> Any:
        export(*arguments)
        raise Damaged("in the middle")

    monkeypatch.setattr(archive_module, "export_archive", breaks_off)
    with pytest.raises(Damaged, match="in the middle"):
        place.back_up(archive_format="zip", attempt=2)
    assert not archive(place).exists()


def test_a_put_only_host_is_told_that_it_cannot(place: Workplace) -> None:
    with pytest.raises(UsageError, match="only add"):
        put_only_backup(place, archive_format="zip")


# The repository


def test_ten_hosts_make_one_repository(place: Workplace) -> None:
    fill(place.root, {"a": 1000})
    for info in list(place.store.list("")):
        place.store.delete(info.key)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            place.do("backup", path="/root", job_id=f"job-{number}", credential="writer")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    repository = Repository.open(place.store, PASSWORD)
    snapshots, damaged = repository.snapshots()
    assert (len(snapshots), damaged) == (6, [])
