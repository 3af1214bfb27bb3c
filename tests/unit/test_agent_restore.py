"""Restore jobs through a real gateway: where they may write, what they check, how they go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_jobs import Workplace, workplace
from sample_repository import fill, packs_holding

from holdfast.agent.jobs import restore as module
from holdfast.agent.jobs.context import JobEnd
from holdfast.errors import (
    NotFound,
    PathEscapesRoot,
    PathOutsideRoots,
    StoreUnavailable,
    TargetError,
    TargetFull,
    TargetNotEmpty,
    UsageError,
)
from holdfast.flows import restore as flow
from holdfast.model.guarded_path import Root
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import pack_key

FILES: dict[str, int | bytes] = {"a": 200_000, "models/b": 1000, "models/c": 10, "notes": 5}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with workplace(tmp_path) as made:
        fill(made.root, FILES)
        made.manifest_id = made.back_up()["manifest_id"]  # type: ignore[attr-defined]
        yield made


def restore(place: Workplace, target: str = "/root/restored", **more: object) -> JobEnd:
    manifest_id = place.manifest_id  # type: ignore[attr-defined]
    spec = {"manifest_id": manifest_id, "captured_path": "/root", "target": target, "paths": []}
    return place.do("restore", **{**spec, **more})


def same(place: Workplace, restored: Path, names: tuple[str, ...] = tuple(FILES)) -> None:
    found = {str(p.relative_to(restored)) for p in restored.rglob("*") if p.is_file()}
    assert found == set(names)
    for name in names:
        assert (restored / name).read_bytes() == (place.root / name).read_bytes()


def test_into_a_new_directory(place: Workplace) -> None:
    """B7: the default target, made anew, with the mode and times of what was captured."""
    (place.root / "models").chmod(0o710)
    end = restore(place)
    assert end.result["files"] == 4
    assert end.result["restored_bytes"] == 201_015
    assert end.result["failed"] == 0
    assert end.findings == ()
    same(place, place.root / "restored")
    assert list(dict.fromkeys(place.stages[-3:]))[-1] == "restoring"


def test_into_an_empty_directory_of_another_root(place: Workplace) -> None:
    other = place.base / "other"
    (other / "deep").mkdir(parents=True)
    roots = (*place.roots, Root("/data", str(other)))
    restore(place, "/data/deep", roots=roots)
    same(place, other / "deep")


def test_selected_paths(place: Workplace) -> None:
    restore(place, "/root/one", paths=["models"])
    same(place, place.root / "one", ("models/b", "models/c"))
    restore(place, "/root/two", paths=["/root/models/b", "/root/notes"])
    same(place, place.root / "two", ("models/b", "notes"))
    with pytest.raises(NotFound):
        restore(place, "/root/three", paths=["nothing"])
    with pytest.raises(UsageError):
        restore(place, "/root/three", paths=["/etc/passwd"])
    assert not (place.root / "three").exists()


def test_a_directory_that_holds_something_is_left_alone(place: Workplace) -> None:
    (place.root / "restored").mkdir()
    (place.root / "restored/mine").write_text("mine")
    with pytest.raises(TargetNotEmpty, match="/root/restored"):
        restore(place)
    assert os.listdir(place.root / "restored") == ["mine"]


def test_a_file_is_no_target(place: Workplace) -> None:
    with pytest.raises(TargetError):
        restore(place, "/root/notes")
    with pytest.raises(TargetError):
        restore(place, "/root/notes/deeper")


# Where it may not lead


@pytest.mark.parametrize("target", ["/etc/new", "/", "/home/user/x"])
def test_a_target_outside_the_roots(place: Workplace, target: str) -> None:
    with pytest.raises(PathOutsideRoots):
        restore(place, target)


@pytest.mark.parametrize("link", ["/tmp", "../.."])
def test_a_target_behind_a_link_that_leads_out(place: Workplace, link: str) -> None:
    (place.root / "out").symlink_to(link)
    for target in ("/root/out", "/root/out/new"):
        with pytest.raises(PathEscapesRoot):
            restore(place, target)


def test_a_target_behind_a_link_that_stays_inside(place: Workplace) -> None:
    (place.root / "disk").mkdir()
    (place.root / "link").symlink_to("disk")
    restore(place, "/root/link/new")
    same(place, place.root / "disk/new")


def test_a_link_to_nowhere_is_not_made_into_somewhere(place: Workplace) -> None:
    outside = place.base / "outside"
    (place.root / "dangling").symlink_to(outside)
    with pytest.raises(PathEscapesRoot):
        restore(place, "/root/dangling")
    assert not outside.exists()


def test_a_root_that_is_not_there_is_not_made(place: Workplace) -> None:
    roots = (Root("/data", str(place.base / "unmounted")),)
    with pytest.raises(TargetError, match="mounted"):
        restore(place, "/data/new", roots=roots)
    assert not (place.base / "unmounted").exists()


@pytest.mark.parametrize("moment", ["plan_restore", "restore"])
def test_a_link_planted_while_it_is_looked_at_leads_nowhere(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A workload swaps the target for a link to somebody else's directory."""
    victim = place.base / "victim"
    victim.mkdir()
    act = getattr(module, moment)

    def swapped(*arguments: Any) -> Any:
        (place.root / "restored").rmdir()
        (place.root / "restored").symlink_to(victim)
        return act(*arguments)

    monkeypatch.setattr(module, moment, swapped)
    with pytest.raises(PathEscapesRoot, match="/root/restored"):
        restore(place)
    assert os.listdir(victim) == []


# Room


def test_room_is_looked_at_before_anything_is_written(place: Workplace) -> None:
    """B7: what does not fit is refused, and nothing is left behind."""
    small = place.base / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "holdfast", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        roots = (Root("/small", str(small)),)
        with pytest.raises(TargetFull, match=r"/small/new .* needed"):
            restore(place, "/small/new", roots=roots)
        assert os.listdir(small) == []
        restore(place, "/small/part", roots=roots, paths=["notes"])
        same(place, small / "part", ("notes",))
    finally:
        subprocess.run(["umount", str(small)], check=True)


# Attempts after the first


def broken(place: Workplace) -> Path:
    """A repository in which the packs with data are out of reach; a path to bring them back."""
    aside = place.base / "aside"
    aside.mkdir()
    for pack in packs_holding(place.repository, BlobType.DATA):
        path = Path(place.store.location) / pack_key(pack)
        shutil.move(path, aside / path.name)
    return aside


def mend(place: Workplace, aside: Path) -> None:
    for path in aside.iterdir():
        shutil.move(path, Path(place.store.location) / pack_key(bytes.fromhex(path.name)))


def test_an_attempt_goes_on_in_the_directory_that_the_one_before_has_filled(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = flow.restore

    def breaks_off(*arguments: object, **more: object) -> object:
        done(*arguments, **more)  # type: ignore[arg-type]
        (place.root / "restored/notes").unlink()
        raise StoreUnavailable("gone in the middle")

    monkeypatch.setattr(module, "restore", breaks_off)
    with pytest.raises(StoreUnavailable):
        restore(place)
    monkeypatch.setattr(module, "restore", done)
    with pytest.raises(TargetNotEmpty):
        restore(place, attempt=2, job_id="job-2")
    end = restore(place, attempt=2)
    assert end.result["files"] == 1
    same(place, place.root / "restored")
    with pytest.raises(TargetNotEmpty):
        restore(place, attempt=3)


def test_a_directory_of_the_same_name_is_not_taken_for_the_one_before(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = flow.restore

    def breaks_off(*_arguments: object, **_more: object) -> object:
        (place.root / "restored/begun").write_text("ours")
        raise StoreUnavailable("gone in the middle")

    monkeypatch.setattr(module, "restore", breaks_off)
    with pytest.raises(StoreUnavailable):
        restore(place)
    monkeypatch.setattr(module, "restore", done)
    (place.root / "restored").rename(place.root / "moved")
    (place.root / "restored").mkdir()
    (place.root / "restored/theirs").write_text("theirs")
    with pytest.raises(TargetNotEmpty):
        restore(place, attempt=2)


def test_damage_is_reported_and_the_rest_is_restored(place: Workplace) -> None:
    aside = broken(place)
    end = restore(place)
    assert {finding.code for finding in end.findings} == {"file_damaged"}
    mend(place, aside)
    restore(place, "/root/again")
    same(place, place.root / "again")
