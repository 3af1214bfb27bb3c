"""A writer that may only add, beside a prune that marks what it counts on."""

from __future__ import annotations

import os
from pathlib import Path

from sample_repository import PASSWORD, contents, expected, fill, make, marked, save

from holdfast.errors import StoreDenied
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.forget import remove_records
from holdfast.flows.prune import PruneLimits, PruneRequest, plan_prune, prune
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.progress import Progress
from holdfast.repo.prune import PruneOutcome
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.memory import MemoryStore


class PutOnly(MemoryStore):
    """As a gateway treats a credential that may only add: packs and snapshots are not read."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__()
        self.__dict__ = inner.__dict__  # the same objects

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key.startswith(("data/", "snapshots/")):
            raise StoreDenied("only adding is allowed")
        return super().read(key, offset, length)


def test_what_it_may_have_counted_on_is_listed_as_alive_again(tmp_path: Path) -> None:
    """H2: it cannot look what its snapshot needs, so everything counts as needed."""
    store = MemoryStore()
    repository = make(store)
    directory = fill(tmp_path / "d", {"a": 100_000})
    first = save(repository, directory)
    restricted = Repository.open(PutOnly(store), PASSWORD)
    pruned: list[PruneOutcome] = []

    def prune_meanwhile(_progress: Progress) -> None:
        if not pruned:
            remove_records(repository, [first.id])
            plan = plan_prune(repository, PruneRequest(PruneLimits(), workers=0))
            pruned.append(prune(repository, plan).outcome)

    request = BackupRequest((os.fsencode(directory),), workers=0, parent=None, settle_ns=0)
    result = backup(restricted, request, prune_meanwhile)
    assert pruned[0].marked > 0
    assert marked(repository) == set()
    assert result.snapshot is not None
    assert repository.ids(FileKind.SNAPSHOT) == [result.snapshot.id]
    assert contents(repository, repository.snapshot(result.snapshot.id)) == expected(directory)
    assert verify(repository, VerifyRequest(read_data=True, workers=0)).clean
