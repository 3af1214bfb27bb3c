"""Make a repository with a very large index and measure what opening it takes.

Index files are synthesised: they list packs that do not exist, which opening an index never
notices. Run as a program it makes the index, opens it with an empty and with a filled
cache, each in a process of its own, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from memory import tree_memory_bytes

from holdfast.repo.crypto import OVERHEAD_BYTES
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.pack import BlobType, PackedBlob
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.local import LocalStore

PASSWORD = "scale"
BLOBS_IN_FILE = 50_000
_BLOBS_IN_PACK = 20
_LOOKUPS = 100_000


def packs_of_file(seed: int, blobs: int) -> list[IndexedPack]:
    """The packs of the index file with this number, the same ones whenever it is asked."""
    chance = random.Random(seed)
    packs = []
    for first in range(0, blobs, _BLOBS_IN_PACK):
        ids = chance.randbytes(32 * (1 + min(_BLOBS_IN_PACK, blobs - first)))
        offset, listed = 0, []
        for at in range(32, len(ids), 32):
            raw = 300_000 + ids[at] * 8_000
            compressed = ids[at + 1] < 128
            length = (raw * 3 // 4 if compressed else raw) + OVERHEAD_BYTES
            kind = BlobType.TREE if ids[at + 2] < 8 else BlobType.DATA
            listed.append(PackedBlob(ids[at : at + 32], kind, offset, length, raw, compressed))
            offset += length
        packs.append(IndexedPack(ids[:32], listed))
    return packs


def _save(repository: Repository, blobs: int, seed: int) -> None:
    repository.save(FileKind.INDEX, encode_index(packs_of_file(seed, blobs)))


def make(directory: str, files: int, blobs_in_file: int = BLOBS_IN_FILE) -> None:
    """Make a repository in `directory` whose index files list files x blobs_in_file blobs."""
    repository = Repository.create(LocalStore(directory), PASSWORD, scrypt=Scrypt(n=16))
    with ProcessPoolExecutor() as processes:
        list(processes.map(partial(_save, repository, blobs_in_file), range(files)))


def measure_opening(directory: str, cache: str, files: int, blobs_in_file: int) -> dict[str, float]:
    """Open the index in this process; return seconds, microseconds of a look-up, and bytes."""
    repository = Repository.open(LocalStore(directory), PASSWORD, cache_directory=cache)
    started = time.perf_counter()
    index = repository.open_index()
    opened = time.perf_counter()
    if len(index) != files * blobs_in_file:
        raise SystemExit(f"the index has {len(index)} rows of {files * blobs_in_file}")
    some = [blob.id for pack in packs_of_file(files // 2, blobs_in_file) for blob in pack.blobs]
    rest = random.Random("strangers")
    strangers = [rest.randbytes(32) for _ in range(_LOOKUPS)]
    begin = time.perf_counter()
    if any(index.knows(BlobType.DATA, each) for each in strangers):
        raise SystemExit("the index knows a blob that it does not list")
    missed = time.perf_counter()
    for each in some:
        if not index.find(BlobType.DATA, each) and not index.find(BlobType.TREE, each):
            raise SystemExit(f"the index does not find {each.hex()}")
    found = time.perf_counter()
    return {
        "open_seconds": opened - started,
        "miss_microseconds": (missed - begin) / len(strangers) * 1e6,
        "find_microseconds": (found - missed) / len(some) * 1e6,
        "tables": len(index.tables),
    }


def open_in_child(directory: str, cache: str, files: int, blobs_in_file: int) -> dict[str, float]:
    """`measure_opening` in a process of its own, and the peak memory of it and its children."""
    command = [sys.executable, os.path.abspath(__file__), "--open", directory, "--cache", cache]
    command += ["--files", str(files), "--blobs-in-file", str(blobs_in_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, tree_memory_bytes(child.pid))
            time.sleep(0.05)
        assert child.stdout is not None
        text = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"the process that opens the index failed ({child.returncode})")
    figures: dict[str, float] = json.loads(text)
    return {**figures, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", help="where to make the repository")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--blobs-in-file", type=int, default=BLOBS_IN_FILE)
    parser.add_argument("--open", help="open this repository's index and print figures")
    parser.add_argument("--cache")
    options = parser.parse_args()
    sizes = (options.files, options.blobs_in_file)
    if options.open:
        print(json.dumps(measure_opening(options.open, options.cache, *sizes)))
        return
    if not options.work:
        parser.error("--work is needed")
    directory = os.path.join(options.work, f"index-{sizes[0]}x{sizes[1]}")
    cache = os.path.join(options.work, f"index-cache-{os.getpid()}")
    if not os.path.exists(directory):
        make(directory + ".part", *sizes)
        os.rename(directory + ".part", directory)
    cold = open_in_child(directory, cache, *sizes)
    warm = open_in_child(directory, cache, *sizes)
    print(json.dumps({"blobs": sizes[0] * sizes[1], "cold": cold, "warm": warm}, indent=2))


if __name__ == "__main__":
    main()
