"""The manifest document: the same bytes each time, and nothing believed that is wrong."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from holdfast.errors import Damaged, NewerVersion, UsageError
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding
from holdfast.model.manifest import (
    DiskManifest,
    Manifest,
    SourceKind,
    from_json,
    to_json,
)

DISK = DiskManifest(
    name="vda",
    size_bytes=10 << 30,
    chunk_size_bytes=1 << 20,
    segment_size_bytes=1 << 30,
    directory="disks/vda",
    parent="ab" * 32,
    sha256=None,
)
MANIFEST = Manifest(
    kind=SourceKind.VM,
    source={"name": "web-1", "uuid": "0815"},
    created=datetime(2026, 3, 1, 12, 30, 5, 42, tzinfo=UTC),
    consistency=Consistency.FROZEN,
    configuration={"xml": "<domain/>", "cpus": 4, "none": None, "list": [1.5, "ü"]},
    disks=(DISK, replace(DISK, name="vdb", directory="disks/vdb", whole_read_reason="New.")),
    findings=(Finding("hook_failed", "The hook failed.", "web-1"),),
    versions={"holdfast": "0.1.0", "qemu": "7.2"},
)


def changed(**members: object) -> bytes:
    document = json.loads(to_json(MANIFEST))
    document.update(members)
    return json.dumps(document).encode()


def changed_disk(**members: object) -> bytes:
    document = json.loads(to_json(MANIFEST))
    document["disks"][0].update(members)
    return json.dumps(document).encode()


def test_what_is_written_is_read() -> None:
    assert from_json(to_json(MANIFEST)) == MANIFEST


def test_equal_manifests_give_equal_bytes() -> None:
    turned = replace(
        MANIFEST,
        source=dict(reversed(list(MANIFEST.source.items()))),
        created=MANIFEST.created.astimezone(timezone(timedelta(hours=5, minutes=30))),
    )
    assert to_json(turned) == to_json(MANIFEST)
    assert to_json(from_json(to_json(MANIFEST))) == to_json(MANIFEST)
    assert b'"created": "2026-03-01T12:30:05.000042Z"' in to_json(MANIFEST)


def test_unknown_members_are_kept() -> None:
    document = json.loads(changed(colour="blue"))
    document["disks"][0]["shade"] = [1]
    data = json.dumps(document).encode()
    read = from_json(data)
    assert read.unknown == {"colour": "blue"}
    assert read.disks[0].unknown == {"shade": [1]}
    again = json.loads(to_json(read))
    assert again == document


def test_names_that_are_not_utf_8_come_back() -> None:
    name = os.fsdecode(b"/srv/\xff\xfe-\xc3\xbc")
    manifest = replace(MANIFEST, source={"path": name}, configuration=[name])
    assert from_json(to_json(manifest)) == manifest
    assert "\\udcff\\udcfe-ü" in to_json(manifest).decode()


def test_a_disk_is_found_by_name() -> None:
    assert MANIFEST.disk("vda") is DISK
    assert MANIFEST.disk("sda") is None


@pytest.mark.parametrize("data", [changed(format=2), changed(format=99, kind=7), changed(kind="x")])
def test_what_is_newer_says_upgrade(data: bytes) -> None:
    with pytest.raises(NewerVersion, match="Upgrade"):
        from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"[" * 200_000,
        b'{"format":1}',
        changed(format=0),
        changed(format=True),
        changed(format="1"),
        changed(kind=None),
        changed(source={"a": 1}),
        changed(source=[]),
        changed(created="yesterday"),
        changed(created="2026-03-01T12:30:05"),
        changed(created="0001-01-01T00:00:00+23:59"),
        changed(consistency="roughly"),
        changed(disks={}),
        changed(disks=[1]),
        changed(findings=["x"]),
        changed(findings=[{"code": "x"}]),
        changed(versions={"a": None}),
        changed(configuration=float("nan")),
        changed_disk(name="vdb"),
        changed_disk(size_bytes=-1),
        changed_disk(size_bytes=1.5),
        changed_disk(chunk_size_bytes=0),
        changed_disk(segment_size_bytes=3 << 19),
        changed_disk(parent="ab"),
        changed_disk(sha256="AB" * 32),
        changed_disk(directory="/etc"),
        changed_disk(directory="a/../b"),
        changed_disk(directory=""),
        changed_disk(directory="a\0b"),
    ],
)
def test_what_is_wrong_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged, match="manifest is damaged"):
        from_json(data)


@pytest.mark.parametrize(
    "manifest",
    [
        replace(MANIFEST, created=datetime(2026, 3, 1)),
        replace(MANIFEST, configuration=float("inf")),
        replace(MANIFEST, configuration={1, 2}),
        replace(MANIFEST, created=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        replace(MANIFEST, disks=(DISK, DISK)),
        replace(MANIFEST, disks=(replace(DISK, directory="../x"),)),
    ],
)
def test_what_could_not_be_read_again_is_not_written(manifest: Manifest) -> None:
    with pytest.raises(UsageError):
        to_json(manifest)
