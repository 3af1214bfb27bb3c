"""Measure Holdfast beside restic and borg on the same data, in turn, on one machine.

See README.md in this directory for what is measured and what is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import stat
import sys
import tempfile

import datasets
import report
from datasets import DATA_SETS, DataSet, Phase, Place
from measure import Command, CommandFailed, Sample, measure, run_quietly, stored_bytes
from peers import Peer, find_peers

_Samples = dict[str, dict[str, list[dict[str, float]]]]


def main() -> None:
    options = _options()
    if options.render:
        with open(options.render, encoding="utf-8") as file:
            results = json.load(file)
        print(report.markdown(results) if options.markdown else report.text(results))
        return
    work = os.path.abspath(options.work)
    os.makedirs(work, exist_ok=True)
    kinds = [kind for kind in DATA_SETS if not options.names or kind.name in options.names]
    if options.profile:
        # Imported here: without it nothing of Holdfast runs in this process.
        from profiling import profile

        for kind in kinds:
            place = datasets.prepare(kind, work, options.scale)
            print(f"{kind.name}: {datasets.describe(place)}")
            profile(place.data, os.path.join(work, "profile"), disk=kind.disk)
        return
    peers = list(find_peers())
    facts = report.machine()
    facts["disk"] = report.disk_of(work)
    facts["programs"] = ", ".join(peer.version() for peer in peers)
    results = {"machine": facts, "runs": options.runs, "scale": options.scale, "sets": {}}
    for kind in kinds:
        print(f"{kind.name}: making the data, if it is not there", flush=True)
        place = datasets.prepare(kind, work, options.scale)
        described = datasets.describe(place)
        samples = _measure_set(kind, place, peers, options.runs)
        results["sets"][kind.name] = {
            "title": kind.title,
            "data": described,
            "note": kind.note,
            "samples": samples,
        }
        if options.json:  # after every set, so that an interrupted run leaves what it has
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)
    print(report.text(results))
    if options.markdown:
        print(report.markdown(results))


def _options() -> argparse.Namespace:
    names = [kind.name for kind in DATA_SETS]
    parser = argparse.ArgumentParser(prog="./dev bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; or all")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="part of the full size; 0.02 is a trial in a few minutes",
    )
    parser.add_argument(
        "--work",
        default=".cache/bench",
        metavar="DIR",
        help="for data and repositories, 60 GB at full size (default: .cache/bench)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every sample to this file")
    parser.add_argument("--markdown", action="store_true", help="print a section for RESULTS.md")
    parser.add_argument("--render", metavar="FILE", help="measure nothing, show what --json wrote")
    parser.add_argument(
        "--profile", action="store_true", help="say instead where Holdfast's time goes"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no data set {', '.join(sorted(unknown))}; there are {names}")
    if options.runs < 1 or options.scale <= 0:
        parser.error("--runs and --scale are positive")
    return options


def _measure_set(kind: DataSet, place: Place, peers: list[Peer], runs: int) -> _Samples:
    samples: _Samples = {phase.name: {peer.name: [] for peer in peers} for phase in kind.phases}
    homes = {peer.name: os.path.join(place.work, "homes", peer.name) for peer in peers}
    for number in range(runs):
        _set_aside(place, os.path.join(place.work, "homes"))
        for peer in peers:
            _make_home(peer, homes[peer.name], place)
        for phase in kind.phases:
            datasets.switch(place, phase.version)
            if phase.settled:
                datasets.wait_until_settled(place)
            # Another one begins in every run, so that none is always the first.
            first = number % len(peers)
            for peer in peers[first:] + peers[:first]:
                sample = _measure_phase(kind, phase, peer, homes[peer.name], place)
                samples[phase.name][peer.name].append(dataclasses.asdict(sample))
                print(
                    f"  run {number + 1}, {phase.name}, {peer.name}: {sample.seconds:.2f} s, "
                    f"{sample.peak_bytes / 1e6:.0f} MB",
                    flush=True,
                )
        datasets.switch(place, 1)
    shutil.rmtree(os.path.join(place.work, "homes"))
    shutil.rmtree(_aside(place), ignore_errors=True)
    return samples


def _set_aside(place: Place, path: str) -> None:
    """Move a directory out of the way; it is deleted after the last run, if there is room.

    ext4 does not use the inodes of deleted files again for minutes and searches past them,
    which made restores of many small files three times slower for whoever came second.
    """
    if not os.path.isdir(path):
        return
    if shutil.disk_usage(place.work).free < 4 * stored_bytes(path):
        shutil.rmtree(path)
        return
    os.makedirs(_aside(place), exist_ok=True)
    os.rename(path, tempfile.mkdtemp(dir=_aside(place)))


def _aside(place: Place) -> str:
    return os.path.join(place.work, "aside")


def _warm(path: str) -> None:
    """Read every file once, so that all programs find the same in the page cache.

    borg drops from the cache what it has read; whoever comes next would pay for that.
    """
    for directory, _, names in os.walk(path):
        for name in names:
            file = os.path.join(directory, name)
            if not stat.S_ISREG(os.lstat(file).st_mode):
                continue
            with open(file, "rb", buffering=0) as reader:
                while reader.read(8 << 20):
                    pass


def _make_home(peer: Peer, home: str, place: Place) -> None:
    """A new repository; the first start of a program, which compiles its modules, is past then."""
    os.makedirs(os.path.join(home, "repository"))
    os.makedirs(os.path.join(home, "cache"))
    run_quietly(peer.create(home))
    scratch = os.path.join(place.work, "homes", "warm-up")
    other = os.path.join(scratch, peer.name)
    os.makedirs(os.path.join(other, "repository"))
    os.makedirs(os.path.join(other, "cache"))
    run_quietly(peer.create(other))
    run_quietly(peer.backup(other, os.path.dirname(os.path.abspath(__file__))))
    shutil.rmtree(scratch)


def _measure_phase(kind: DataSet, phase: Phase, peer: Peer, home: str, place: Place) -> Sample:
    target, image = _target(place), os.path.join(place.data, "disk.img")
    command = _command(kind, phase, peer, home, place)
    if phase.act == "restore":
        os.makedirs(target)
    repository = os.path.join(home, "repository")
    before = stored_bytes(repository)
    _warm(repository if phase.act == "restore" else place.data)
    sample = measure(command)
    grown = stored_bytes(repository) - before
    if phase.act == "restore":
        _compare(image if kind.disk else place.data, target, peer.name)
        _set_aside(place, target)
    return dataclasses.replace(sample, stored_bytes=grown)


def _target(place: Place) -> str:
    return os.path.join(place.work, "homes", "target")


def _command(kind: DataSet, phase: Phase, peer: Peer, home: str, place: Place) -> Command:
    image = os.path.join(place.data, "disk.img")
    if phase.act == "snapshots":
        return peer.snapshots(home)
    if phase.act == "restore":
        if kind.disk:
            return peer.restore_disk(home, image, _target(place))
        return peer.restore(home, place.data, _target(place))
    if kind.disk:
        dirty = place.dirty_list(phase.version) if phase.act == "backup-by-list" else None
        return peer.backup_disk(home, image, dirty)
    return peer.backup(home, place.data)


def _compare(original: str, target: str, peer: str) -> None:
    """Fail unless what was restored is what was backed up; programs differ in where they put it."""
    restored = os.path.join(target, os.path.basename(original))
    whole_path = os.path.join(target, original.lstrip("/"))
    if os.path.exists(whole_path):
        restored = whole_path
    elif not os.path.exists(restored):
        restored = target
    difference = _difference(original, restored)
    if difference:
        raise CommandFailed(f"{peer} restored {difference} wrongly; no figures of it are worth any")


def _difference(one: str, other: str) -> str | None:
    """The first path at which two trees differ in kind, names or content."""
    try:
        kinds = [stat.S_IFMT(os.lstat(path).st_mode) for path in (one, other)]
    except FileNotFoundError:
        return one
    if kinds[0] != kinds[1]:
        return one
    if stat.S_ISDIR(kinds[0]):
        names = sorted(os.listdir(one))
        if names != sorted(os.listdir(other)):
            return one
        pairs = ((os.path.join(one, name), os.path.join(other, name)) for name in names)
        return next(filter(None, (_difference(*pair) for pair in pairs)), None)
    if stat.S_ISLNK(kinds[0]):
        return None if os.readlink(one) == os.readlink(other) else one
    with open(one, "rb") as first, open(other, "rb") as second:
        while (block := first.read(1 << 20)) == second.read(1 << 20):
            if not block:
                return None
    return one


if __name__ == "__main__":
    try:
        main()
    except CommandFailed as failure:
        sys.exit(str(failure))
