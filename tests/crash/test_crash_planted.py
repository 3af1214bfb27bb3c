"""Mistakes planted on purpose: the crash tests have to find each of them.

Not among them is a sync left out: SIGKILL takes nothing from the kernel, so only a machine
that loses power shows it. `tests/unit/test_local_store.py` looks at the calls for that.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from crash_cases import REPRESENTATIVE, Prepared
from dying import apart
from test_crash_beside import Crowd
from test_crash_fault import Outage, faulty

from holdfast.errors import HoldfastError, StoreError, StoreUnavailable
from holdfast.flows import keys
from holdfast.flows.copy import _Copy
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.index_rewrite import IndexRewrite
from holdfast.repo.keyring import change_password
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.prune import PruneRun
from holdfast.repo.prune_plan import PackAction
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.writer import BlobWriter
from holdfast.store.faults import fail_before
from holdfast.store.local import LocalStore
from holdfast.store.protocol import Buffer

pytestmark = pytest.mark.slow
pytest_plugins = ("crash_fixtures",)

WIDTH = 3
"""A planted mistake is open for at least so many steps."""

MOST_CROWDS = 50
"""A crowd finds the mistake planted for it about every fourth time."""

Plant = Callable[[pytest.MonkeyPatch], None]


def snapshot_before_index(patch: pytest.MonkeyPatch) -> None:
    def commit(self: WriteSession, document: dict[str, object]) -> Snapshot:
        snapshot = self.repository.save_snapshot(document)
        self.write_index()
        return snapshot

    patch.setattr(WriteSession, "commit", commit)


def index_before_packs(patch: pytest.MonkeyPatch) -> None:
    delay(patch, "data/", until="snapshots/")


def acknowledged_before_stored(patch: pytest.MonkeyPatch) -> None:
    delay(patch, "snapshots/", until="locks/")


def delay(patch: pytest.MonkeyPatch, prefix: str, until: str) -> None:
    """Acknowledge objects at once, and store them when one of another kind was stored."""
    late: list[tuple[LocalStore, str, bytes]] = []
    create = LocalStore.create

    def create_late(self: LocalStore, key: str, data: Buffer) -> None:
        if key.startswith(prefix):
            late.append((self, key, bytes(data)))
            return
        create(self, key, data)
        while key.startswith(until) and late:
            create(*late.pop())

    patch.setattr(LocalStore, "create", create_late)


def written_under_the_final_name(patch: pytest.MonkeyPatch) -> None:
    def write(
        self: LocalStore, directory: str, name: str, final: str, chunks: Iterable[Buffer]
    ) -> int:
        file = os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        for _ in range(WIDTH):
            self._step("opened")
        written = sum(os.write(file, chunk) for chunk in chunks)
        os.close(file)
        return written

    patch.setattr(LocalStore, "_write", write)


def old_index_files_removed_first(patch: pytest.MonkeyPatch) -> None:
    write, save = IndexRewrite.write, Repository.save

    def write_late(self: IndexRewrite, *arguments: Any, **more: Any) -> None:
        waiting: list[bytes] = []

        def wait(_self: Repository, _kind: FileKind, json: bytes) -> str:
            waiting.append(json)
            return ""

        patch.setattr(Repository, "save", wait)
        write(self, *arguments, **more)
        patch.setattr(Repository, "save", save)
        self.remove_superseded()
        for json in waiting:
            self._repository.save(FileKind.INDEX, json)

    patch.setattr(IndexRewrite, "write", write_late)


def snapshot_overlooked_by_prune(patch: pytest.MonkeyPatch) -> None:
    add_trees = NeededBlobs.add_trees

    def add_some(self: NeededBlobs, repository: Repository, roots: Any, **more: Any) -> None:
        add_trees(self, repository, list(roots)[:-1], **more)

    patch.setattr(NeededBlobs, "add_trees", add_some)


def packs_deleted_while_listed(patch: pytest.MonkeyPatch) -> None:
    rewrite = PruneRun._rewrite_index

    def delete_and_rewrite(self: PruneRun, decisions: Any, packs: Any) -> None:
        for decision in decisions:
            if decision.action is PackAction.MARK:
                self._delete_pack(decision)
        rewrite(self, decisions, packs)

    patch.setattr(PruneRun, "_rewrite_index", delete_and_rewrite)


def forgotten_and_kept(patch: pytest.MonkeyPatch) -> None:
    remove = Repository.remove

    def remove_others(self: Repository, kind: FileKind, name: str) -> None:
        if kind is not FileKind.SNAPSHOT:
            remove(self, kind, name)

    patch.setattr(Repository, "remove", remove_others)


def copied_record_before_its_blobs(patch: pytest.MonkeyPatch) -> None:
    transfer, commit = _Copy.transfer, _Copy.commit
    waiting: list[tuple[Any, ...]] = []

    def commit_first(self: _Copy, batch: Any) -> None:
        commit(self, batch)
        while waiting:
            transfer(*waiting.pop())
        self._session.write_index()

    patch.setattr(_Copy, "transfer", lambda *arguments: waiting.append(arguments))
    patch.setattr(_Copy, "commit", commit_first)


def old_key_removed_first(patch: pytest.MonkeyPatch) -> None:
    def change(repository: Repository, password: str, **more: Any) -> str:
        repository.remove(FileKind.KEY, repository.key_id)
        return change_password(repository, password, **more)

    patch.setattr(keys, "change_password", change)


KILLED = (
    (snapshot_before_index, "backup"),
    (index_before_packs, "backup"),
    (acknowledged_before_stored, "backup"),
    (written_under_the_final_name, "backup"),
    (old_index_files_removed_first, "mark"),
    (snapshot_overlooked_by_prune, "instant"),
    (packs_deleted_while_listed, "mark"),
    (forgotten_and_kept, "forget"),
    (copied_record_before_its_blobs, "copy"),
    (old_key_removed_first, "rekey"),
)


@pytest.mark.parametrize(("plant", "act"), KILLED, ids=[plant.__name__ for plant, _ in KILLED])
def test_kills_find(directory: Path, plant: Plant, act: str) -> None:
    prepared = Prepared(directory, REPRESENTATIVE.index(act))
    for step in itertools.count(0, WIDTH):
        ending = prepared.die_at(step, lambda: plant(pytest.MonkeyPatch()))
        assert not ending.failure, ending.failure
        try:
            prepared.assert_all_well()
        except (AssertionError, HoldfastError) as found:
            print("found at step", step, repr(found)[:500])
            break
        assert ending.killed, "nothing was found at any step"


def upload_errors_swallowed(patch: pytest.MonkeyPatch) -> None:
    create = BlobWriter._upload

    def upload(self: BlobWriter, pack: Any, header: bytes) -> Any:
        store = self._setup.store

        class Careless:
            def create(self, key: str, data: Buffer) -> None:
                with suppress(StoreError):
                    store.create(key, data)

        object.__setattr__(self._setup, "store", Careless())
        try:
            return create(self, pack, header)
        finally:
            object.__setattr__(self._setup, "store", store)

    patch.setattr(BlobWriter, "_upload", upload)


def index_errors_swallowed(patch: pytest.MonkeyPatch) -> None:
    write = WriteSession.write_index

    def write_index(self: WriteSession) -> None:
        with suppress(StoreError):
            write(self)

    patch.setattr(WriteSession, "write_index", write_index)


def errors_of_another_kind(patch: pytest.MonkeyPatch) -> None:
    save = Repository.save

    def save_strangely(self: Repository, kind: FileKind, json: bytes) -> str:
        try:
            return save(self, kind, json)
        except StoreError as error:
            raise RuntimeError(error.message) from None

    patch.setattr(Repository, "save", save_strangely)


FAULTY = (upload_errors_swallowed, index_errors_swallowed, errors_of_another_kind)


@pytest.mark.parametrize("plant", FAULTY, ids=[plant.__name__ for plant in FAULTY])
def test_faults_find(directory: Path, plant: Plant) -> None:
    prepared = Prepared(directory, 1)
    apart(lambda: find_by_faults(prepared, plant), directory / "failure")


def find_by_faults(prepared: Prepared, plant: Plant) -> None:
    for call in itertools.count():
        outage = Outage(call, 1, fail_before, StoreUnavailable)
        prepared.bring_back()
        stores = prepared.memory_stores()
        history = prepared.history(faulty(stores, outage), may_fail=True, before=outage.told)
        try:
            with pytest.MonkeyPatch.context() as patch:
                plant(patch)
                history.act(prepared.act)
            history.unlock()
            prepared.assert_all_well_in(stores)
        except (AssertionError, HoldfastError, RuntimeError) as found:
            print("found at call", call, repr(found)[:500])
            break
        assert outage.reached, "nothing was found at any call"


def marked_packs_offered_to_writers(patch: pytest.MonkeyPatch) -> None:
    find = BlobIndex.find
    patch.setattr(BlobIndex, "knows", lambda *blob: find(*blob) is not None)


def test_crowds_find(directory: Path) -> None:
    for seed in range(MOST_CROWDS):
        ground = directory / str(seed)
        ground.mkdir()
        crowd = Crowd(ground, seed)
        try:
            with pytest.MonkeyPatch.context() as patch:
                marked_packs_offered_to_writers(patch)
                crowd.live()
            crowd.assert_all_well()
        except Exception as found:  # whatever it breaks, it was noticed
            print("found with seed", seed, repr(found)[:500])
            return
    pytest.fail("nothing was found with any seed")
