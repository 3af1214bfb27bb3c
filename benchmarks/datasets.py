"""What is backed up: data sets made once in a work directory, and their later versions.

A data set is a directory ``data`` and, for every later version, the files that differ in
it. Versions are exchanged by renaming, so that changing and changing back cost nothing and
every peer sees the same bytes. Random parts come from fixed seeds; nothing here measures.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy

MIB = 1 << 20
SETTLED_SECONDS = 62
_REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "venv-requirements.txt")


@dataclass(frozen=True)
class Place:
    """Where a data set lies, and how large it is meant to be (1.0 is the full size)."""

    directory: str
    work: str
    scale: float

    @property
    def data(self) -> str:
        return os.path.join(self.directory, "data")

    def version(self, number: int) -> str:
        """The directory with the files that differ in a later version (2, 3, ...)."""
        return os.path.join(self.directory, f"version-{number}")

    def dirty_list(self, number: int) -> str:
        """The list of ranges in which a version's disk differs from the version before."""
        return os.path.join(self.directory, f"dirty-{number}.json")


@dataclass(frozen=True)
class Phase:
    """One measured step: `act` is what a peer does, `version` the state of the data then."""

    name: str
    act: str
    version: int = 1
    settled: bool = False


@dataclass(frozen=True)
class DataSet:
    """A kind of data, how it is made, and what is measured with it."""

    name: str
    title: str
    make: Callable[[Place], None]
    phases: tuple[Phase, ...]
    disk: bool = False
    versions: int = 1
    note: str = ""


def prepare(kind: DataSet, work: str, scale: float) -> Place:
    """Make a data set, or find the one that an earlier run made, in its first version."""
    directory = os.path.join(work, "data", f"{kind.name}-{scale:g}")
    place = Place(directory, work, scale)
    if not os.path.exists(os.path.join(directory, "made")):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(place.data)
        kind.make(place)
        for name in ("state", "made"):
            with open(os.path.join(directory, name), "w", encoding="ascii") as file:
                file.write("1")
    switch(place, 1)
    return place


def switch(place: Place, wanted: int) -> None:
    """Bring the data to a version; they lie side by side, each one step from the next."""
    state = os.path.join(place.directory, "state")
    with open(state, encoding="ascii") as file:
        now = int(file.read())
    while now != wanted:
        step = now + 1 if wanted > now else now
        _exchange(place.version(step), place.data)
        now = step if wanted > now else now - 1
        with open(state, "w", encoding="ascii") as file:
            file.write(str(now))


def wait_until_settled(place: Place) -> None:
    """Wait until no file changed so lately that its time stamp cannot be trusted."""
    changed = os.stat(os.path.join(place.directory, "state")).st_mtime
    pause = changed + SETTLED_SECONDS - time.time()
    if pause > 0:
        print(f"  waiting {pause:.0f} s until the files are no longer fresh", flush=True)
        time.sleep(pause)


def describe(place: Place) -> str:
    files = size = used = 0
    for parent, _, names in os.walk(place.data):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            files, size, used = files + 1, size + status.st_size, used + 512 * status.st_blocks
    on_disk = f", {used / 1e6:,.0f} MB of it used" if used < size * 0.9 else ""
    return f"{files:,} file{'s' * (files != 1)}, {size / 1e6:,.0f} MB{on_disk}"


def _exchange(other: str, data: str) -> None:
    for parent, _, names in os.walk(other):
        for name in names:
            aside = os.path.join(parent, name)
            here = os.path.join(data, os.path.relpath(aside, other))
            middle = aside + ".exchange"
            os.rename(here, middle)
            os.rename(aside, here)
            os.rename(middle, aside)


def _random_blocks(seed: str, total_bytes: int) -> Iterator[bytes]:
    chance = numpy.random.default_rng(list(seed.encode()))
    for first in range(0, total_bytes, 8 * MIB):
        yield chance.bytes(min(8 * MIB, total_bytes - first))


def _make_big(place: Place) -> None:
    os.makedirs(place.version(2))
    size = int(4096 * place.scale) * MIB
    blocks = max(1, size // (8 * MIB))
    chance = random.Random("big")
    overwritten = {chance.randrange(blocks): chance.randrange(7 * MIB) for _ in range(3)}
    inserted = {chance.randrange(blocks): chance.randrange(7 * MIB) for _ in range(3)}
    with (
        open(os.path.join(place.data, "big"), "wb") as one,
        open(os.path.join(place.version(2), "big"), "wb") as two,
    ):
        for number, block in enumerate(_random_blocks("big", size)):
            one.write(block)
            changed = bytearray(block)
            if number in overwritten:
                at = overwritten[number]
                changed[at : at + MIB] = chance.randbytes(len(changed[at : at + MIB]))
            if number in inserted:
                at = inserted[number]
                changed[at:at] = chance.randbytes(1_000_003)
            two.write(changed)


def _make_venv(place: Place) -> None:
    environment = os.path.join(place.data, "venv")
    with open(_REQUIREMENTS, encoding="utf-8") as file:
        wanted = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    if place.scale < 1:  # the names are in no order of size, so some are as good as others
        wanted = random.Random("venv").sample(wanted, max(1, int(len(wanted) * place.scale)))
    subprocess.run(["python3", "-m", "venv", environment], check=True)
    pip = [f"{environment}/bin/python", "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, "--quiet", "--no-deps", *wanted], check=True)
    files = [
        os.path.join(parent, name)
        for parent, _, names in sorted(os.walk(place.data))
        for name in sorted(names)
        if not os.path.islink(os.path.join(parent, name))
    ]
    chance = random.Random("venv")
    for path in chance.sample(files, max(1, len(files) // 100)):
        changed = os.path.join(place.version(2), os.path.relpath(path, place.data))
        os.makedirs(os.path.dirname(changed), exist_ok=True)
        with open(path, "rb") as file, open(changed, "wb") as copy:
            text = file.read()
            at = chance.randrange(len(text) + 1)
            copy.write(text[:at] + b"# changed by the benchmark\n" + text[at:])
        shutil.copymode(path, changed)


def _make_tiny(place: Place) -> None:
    chance = random.Random("tiny")
    words = [chance.randbytes(4).hex() for _ in range(2000)]
    for first in range(0, int(200_000 * place.scale), 500):
        directory = os.path.join(place.data, f"{first // 10_000:02}", f"{first:06}")
        os.makedirs(directory)
        for number in range(first, first + 500):
            text = " ".join(chance.choices(words, k=chance.randrange(5, 120)))
            with open(os.path.join(directory, f"{number}.txt"), "w", encoding="ascii") as file:
                file.write(text)


def _make_checkpoints(place: Place) -> None:
    """Shards of weights in bf16, and of an optimiser's moments in fp32, after two steps.

    Values are drawn from normal distributions, each tensor with its own deviation. In the
    later version three tensors of five went on training: all their values moved a little.
    """
    os.makedirs(place.version(2))
    chance = numpy.random.default_rng(7)
    shard_values = max(1, int(64 * MIB * place.scale))
    for shard in range(8):
        half = shard < 4
        values = shard_values * 2 if half else shard_values
        name = f"{'model' if half else 'optimizer'}-{shard:05}.bin"
        with (
            open(os.path.join(place.data, name), "wb") as before,
            open(os.path.join(place.version(2), name), "wb") as after,
        ):
            tensors = 20
            for tensor in range(tensors):
                deviation = numpy.float32(10 ** chance.uniform(-3, -1.2))
                old = chance.standard_normal(values // tensors, dtype="f4") * deviation
                new = old
                if tensor % 5 < 3:
                    moved = chance.standard_normal(len(old), dtype="f4")
                    new = old + moved * (deviation * numpy.float32(0.01))
                for file, tensor_values in ((before, old), (after, new)):
                    bits = tensor_values.view("<u4")
                    file.write((bits >> 16).astype("<u2").tobytes() if half else bits.tobytes())


def _make_disk(place: Place) -> None:
    """An ext4 file system with a virtual environment and random files in it.

    It is filled by mke2fs, so that neither root nor a mount is needed.
    """
    venv = prepare(by_name("venv"), place.work, place.scale)
    content = os.path.join(place.directory, "content")
    shutil.copytree(venv.data, content, symlinks=True)
    for number in range(8):
        with open(os.path.join(content, f"random-{number}"), "wb") as file:
            file.writelines(_random_blocks(f"disk-{number}", int(200 * place.scale) * MIB))
    image = os.path.join(place.data, "disk.img")
    size = int(10_240 * place.scale) * MIB
    with open(image, "wb") as file:
        file.truncate(size)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", content, image]
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # not every user's path has them
    subprocess.run(command, env={**os.environ, "PATH": search}, check=True)
    shutil.rmtree(content)
    before = image
    for number in (2, 3):
        os.makedirs(place.version(number))
        changed = os.path.join(place.version(number), "disk.img")
        copy = ["cp", "--sparse=always", "--reflink=auto", before, changed]
        subprocess.run(copy, check=True)
        with open(place.dirty_list(number), "w", encoding="ascii") as file:
            json.dump(_change_used_parts(changed, f"disk-{number}"), file)
        before = changed


def _change_used_parts(image: str, seed: str) -> list[tuple[int, int]]:
    """Overwrite 2 % of what an image holds, in places of 64 KiB; return (start, length)."""
    place_bytes = 64 << 10
    places: list[int] = []
    with open(image, "r+b") as file:
        at, end = 0, os.fstat(file.fileno()).st_size
        while at < end:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole is left
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            places += range(-(-begin // place_bytes) * place_bytes, at - place_bytes, place_bytes)
        chance = random.Random(seed)
        chosen = sorted(chance.sample(places, max(1, len(places) // 50)))
        for start in chosen:
            os.pwrite(file.fileno(), chance.randbytes(place_bytes), start)
    return [(start, place_bytes) for start in chosen]


def _make_little(place: Place) -> None:
    with open(os.path.join(place.data, "hello"), "w", encoding="ascii") as file:
        file.write("hello\n")


_FIRST = Phase("first", "backup")
_FIRST_SETTLED = Phase("first", "backup", settled=True)
_UNCHANGED = Phase("unchanged", "backup", settled=True)
_CHANGED = Phase("changed", "backup", version=2)

DATA_SETS = (
    DataSet(
        "big",
        "One incompressible file",
        _make_big,
        (_FIRST, _CHANGED, Phase("restore", "restore", version=2)),
        versions=2,
        note="Changed: three places of 1 MiB overwritten, three times 1 MB inserted.",
    ),
    DataSet(
        "venv",
        "A virtual environment",
        _make_venv,
        (_FIRST_SETTLED, _UNCHANGED, _CHANGED, Phase("restore", "restore", version=2)),
        versions=2,
        note="Real packages from PyPI with compiled modules. Changed: 1 % of the files.",
    ),
    DataSet(
        "tiny",
        "Tiny files",
        _make_tiny,
        (_FIRST_SETTLED, _UNCHANGED, Phase("restore", "restore")),
    ),
    DataSet(
        "checkpoints",
        "Checkpoints of training, bf16 and fp32",
        _make_checkpoints,
        (_FIRST, _CHANGED, Phase("restore", "restore", version=2)),
        versions=2,
        note="Changed: all values moved a little in three tensors of five.",
    ),
    DataSet(
        "disk",
        "A disk image",
        _make_disk,
        (
            _FIRST,
            Phase("changed, read whole", "backup", version=2),
            Phase("changed, by list", "backup-by-list", version=3),
            Phase("restore", "restore", version=3),
        ),
        disk=True,
        versions=3,
        note="An ext4 file system in a sparse file. Changed: 2 % of what is used, in places of "
        "64 KiB. By list: holdfast is told what changed, as a hypervisor does; the others "
        "cannot be told, and read the image whole.",
    ),
    DataSet(
        "start",
        "Starting up",
        _make_little,
        (_FIRST, Phase("snapshots", "snapshots")),
        note="One small file, one snapshot: what a command takes to begin and end.",
    ),
)


def by_name(name: str) -> DataSet:
    return next(kind for kind in DATA_SETS if kind.name == name)
