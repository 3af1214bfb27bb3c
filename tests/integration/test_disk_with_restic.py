"""Disks in a real repository, by worker processes, judged by restic, qemu-img and the kernel."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.flows.backup_disk import DiskBackupRequest, DiskBackupResult, backup_disk
from holdfast.flows.export_disk import DiskExportRequest, DiskFormat, export_disk
from holdfast.flows.read_disk import StoredDisk
from holdfast.model.consistency import Consistency
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

KIB, MIB = 1 << 10, 1 << 20
CHUNK = 64 * KIB
SIZE = 150 * MIB + 4321
PASSWORD = "pw"


def skip_or_fail(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(params=["HOLDFAST_RESTIC_NEW", "HOLDFAST_RESTIC_OLD"])
def restic(request: pytest.FixtureRequest) -> str:
    program = os.environ.get(request.param)
    if not program:
        skip_or_fail(f"{request.param} does not name a restic program")
        raise AssertionError
    return program


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(LocalStore(str(tmp_path / "repo")), PASSWORD, scrypt=Scrypt(n=16))


def run_restic(program: str, tmp_path: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program, "-r", str(tmp_path / "repo"), "--no-cache", *arguments],
        env={**os.environ, "RESTIC_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_image(path: Path, rng: random.Random) -> None:
    with path.open("wb") as file:
        file.truncate(SIZE)
        for _ in range(12):
            file.seek(rng.randrange(SIZE - 4 * MIB))
            file.write(rng.randbytes(rng.randrange(2 * MIB)))
        file.seek(SIZE - 1000)
        file.write(rng.randbytes(1000))


def change(path: Path, rng: random.Random) -> list[tuple[int, int]]:
    dirty = []
    with path.open("r+b") as file:
        for _ in range(6):
            start = rng.randrange(SIZE)
            length = min(SIZE - start, rng.choice((1, CHUNK, rng.randrange(3 * MIB))))
            file.seek(start)
            file.write(bytes(length) if rng.random() < 0.3 else rng.randbytes(length))
            dirty.append((start, length))
    return dirty


def generations(
    repository: Repository, tmp_path: Path, count: int
) -> list[tuple[DiskBackupResult, Path]]:
    """Back up an image, change it, back it up again; keep a copy of each state."""
    rng = random.Random(11)
    image = tmp_path / "disk.raw"
    make_image(image, rng)
    made: list[tuple[DiskBackupResult, Path]] = []
    dirty: dict[str, list[tuple[int, int]]] = {}
    for number in range(count):
        result = backup_disk(
            repository, DiskBackupRequest({"vda": image}, dirty=dirty, chunk_size_bytes=CHUNK)
        )
        assert result.findings == ()
        assert (result.disks[0].reused_bytes > 0) == (number > 0)
        copy = tmp_path / f"copy-{number}"
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        made.append((result, copy))
        dirty = {"vda": change(image, rng)}
    return made


def test_restic_restores_the_raw_disk(repository: Repository, tmp_path: Path, restic: str) -> None:
    made = generations(repository, tmp_path, 3)
    run_restic(restic, tmp_path, "check", "--read-data")
    for number, (result, copy) in enumerate(made):
        out = tmp_path / f"restored-{number}"
        run_restic(restic, tmp_path, "restore", result.snapshot.id, "--target", str(out))
        segments = sorted((out / "vda.disk").glob("segment-*/data"))
        assert len(segments) == 3
        with subprocess.Popen(["cat", *segments], stdout=subprocess.PIPE) as joined:
            compared = subprocess.run(["cmp", "-", copy], stdin=joined.stdout, check=False)
        assert compared.returncode == 0
        assert (out / ".holdfast" / "manifest.json").exists()


def test_restic_may_forget_and_prune_between_generations(
    repository: Repository, tmp_path: Path, restic: str
) -> None:
    made = generations(repository, tmp_path, 3)
    for result, _ in made[:2]:
        run_restic(restic, tmp_path, "forget", result.snapshot.id)
    run_restic(restic, tmp_path, "prune", "--max-unused", "0")
    out = tmp_path / "out"
    assert export_disk(repository, DiskExportRequest("latest", out, verify=True)).complete
    assert subprocess.run(["cmp", out, made[2][1]], check=False).returncode == 0


@pytest.mark.parametrize("chunk_size_bytes", [4 * KIB, MIB])
def test_qemu_finds_the_same_disk_in_every_export(
    repository: Repository, tmp_path: Path, chunk_size_bytes: int
) -> None:
    if shutil.which("qemu-img") is None:
        skip_or_fail("qemu-img is not installed (Debian: qemu-utils)")
    image = tmp_path / "disk.raw"
    make_image(image, random.Random(5))
    backup_disk(repository, DiskBackupRequest({"vda": image}, chunk_size_bytes=chunk_size_bytes))
    for format_ in DiskFormat:
        out = tmp_path / f"out.{format_}"
        wanted = DiskExportRequest("latest", out, format=format_, verify=True)
        result = export_disk(repository, wanted)
        assert (result.complete, result.findings) == (True, ())
        if format_ is DiskFormat.QCOW2:
            subprocess.run(["qemu-img", "check", out], check=True, capture_output=True)
        compared = subprocess.run(
            ["qemu-img", "compare", "-f", "raw", "-F", format_, image, out],
            check=False,
            capture_output=True,
            text=True,
        )
        assert compared.returncode == 0, compared.stdout
        assert out.stat().st_blocks * 512 < image.stat().st_blocks * 512 + 2 * MIB


@contextmanager
def loop_device(backing: Path) -> Iterator[str]:
    attach = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    if attach.returncode:
        skip_or_fail(f"loop devices cannot be made here: {attach.stderr.strip()}")
    device = attach.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_block_devices_as_source_and_target(repository: Repository, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(3 * MIB) + bytes(9 * MIB) + b"end" + bytes(MIB - 3)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    target.write_bytes(b"\xff" * (len(content) + MIB))
    with loop_device(source) as device:
        calm = backup_disk(repository, DiskBackupRequest({"sda": device}))
        assert (calm.consistency, calm.findings) == (Consistency.ATOMIC, ())

        def disturb(_progress: object) -> None:
            with open(device, "r+b", buffering=0) as file:
                file.seek(12 * MIB)
                file.write(b"END")

        torn = backup_disk(repository, DiskBackupRequest({"sda": device}), disturb)
        assert torn.consistency is Consistency.TORN
        assert [finding.code for finding in torn.findings] == ["disk_changed"]
    with loop_device(target) as device:
        wanted = DiskExportRequest(calm.snapshot.id, device, overwrite=True, verify=True)
        result = export_disk(repository, wanted)
        assert result.complete
        assert [finding.code for finding in result.findings] == ["device_larger"]
        with open(device, "rb") as file:
            assert file.read(len(content)) == content
            assert file.read() == b"\xff" * MIB


class SpawningStore(LocalStore):
    """A store as those over a network are: a forked child cannot use it."""

    fork_safe = False


def test_workers_may_be_spawned(tmp_path: Path) -> None:
    store = SpawningStore(str(tmp_path / "repo"))
    repository = Repository.create(store, PASSWORD, scrypt=Scrypt(n=16))
    image, out = tmp_path / "disk.raw", tmp_path / "out"
    make_image(image, random.Random(1))
    backup_disk(repository, DiskBackupRequest({"vda": image}))
    assert export_disk(repository, DiskExportRequest("latest", out, verify=True)).complete
    assert subprocess.run(["cmp", image, out], check=False).returncode == 0


def test_a_stored_disk_is_read_from_many_places(repository: Repository, tmp_path: Path) -> None:
    (result, copy), *_ = generations(repository, tmp_path, 1)
    content = copy.read_bytes()
    rng = random.Random(3)
    with StoredDisk.open(repository, repository.open_index(), result.snapshot) as disk:
        for _ in range(200):
            start = rng.randrange(SIZE)
            length = min(SIZE - start, rng.randrange(300 * KIB))
            assert disk.read(start, length) == content[start : start + length]
