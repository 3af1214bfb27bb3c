"""What writers that were killed have left in local directories goes with a gateway's sweep."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.gateway.stores import Stores


def left(directory: Path, name: str, *, old: bool = True) -> Path:
    """A file as a writer leaves it that was killed; an old one is of 1970."""
    path = directory / "data" / "00" / f"{name}-tmp-1234567890"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    if old:
        os.utime(path, (0, 0))
    return path


def used(stores: Stores, directory: Path) -> None:
    with stores.use(str(directory), {}):
        pass


def test_what_is_old_goes_once_a_day_from_every_directory_that_was_used(tmp_path: Path) -> None:
    one, two, unused = (tmp_path / name for name in ("one", "two", "unused"))
    old = [left(each, "a" * 64) for each in (one, two, unused)]
    young = left(one, "b" * 64, old=False)
    whole = one / "data" / "00" / ("c" * 64)
    whole.write_bytes(b"whole")
    os.utime(whole, (0, 0))
    stores = Stores()
    assert stores.remove_stale_temporaries() == 0
    used(stores, one)
    used(stores, two)
    assert stores.remove_stale_temporaries() == 2
    assert [each.exists() for each in old] == [False, False, True]
    assert young.exists()
    assert whole.exists()
    # It looks at every name, and so not again before a day has passed.
    left(one, "d" * 64)
    assert stores.remove_stale_temporaries() == 0
    stores.close()


def test_a_directory_that_is_gone_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    stores = Stores()
    (tmp_path / "there").mkdir()
    used(stores, tmp_path / "gone")
    used(stores, tmp_path / "there")
    old = left(tmp_path / "there", "a" * 64)
    assert stores.remove_stale_temporaries() == 1
    assert not old.exists()
    stores.close()
