"""What of a tree to take: patterns, regular expressions, sizes, marked cache directories.

A value that can be sent to other processes; matchers are compiled where it is used.
"""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass

from holdfast.model.patterns import PathFilter

_CACHE_TAG = b"CACHEDIR.TAG"
_CACHE_TAG_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"


@dataclass(frozen=True)
class Selection:
    """Rules for leaving entries out. Paths are relative to each path that is backed up.

    `exclude` and `include` are gitignore-like patterns; `whitelist` and `blacklist` are
    RE2 expressions on files' paths, of which the blacklist wins; `larger_than_bytes`
    leaves out larger files; `caches` leaves out what lies in directories with a valid
    CACHEDIR.TAG, `if_present` in directories that hold an entry of one of these names.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    whitelist: tuple[str, ...] = ()
    blacklist: tuple[str, ...] = ()
    larger_than_bytes: int | None = None
    caches: bool = False
    if_present: tuple[str, ...] = ()

    @property
    def takes_all(self) -> bool:
        """Whether no rule on single entries is set."""
        return not (
            self.exclude
            or self.include
            or self.whitelist
            or self.blacklist
            or self.larger_than_bytes is not None
        )

    @property
    def excludes_for_record(self) -> tuple[str, ...]:
        """The patterns, as the snapshot records them."""
        return self.exclude

    def __getstate__(self) -> dict[str, object]:
        """The rules without their matchers, which no process can send to another."""
        return {name: value for name, value in self.__dict__.items() if name != "_filter"}

    @functools.cached_property
    def _filter(self) -> PathFilter:
        return PathFilter(
            exclude=self.exclude,
            include=self.include,
            whitelist=self.whitelist,
            blacklist=self.blacklist,
        )

    def check(self) -> None:
        """Raise `BadPattern` where a rule does not parse, before any work is done."""
        _ = self._filter

    def excludes(self, path: bytes, st: os.stat_result) -> bool:
        """Whether an entry is left out; of a directory, with everything below it."""
        if self._filter.excludes(path, stat.S_ISDIR(st.st_mode)):
            return True
        limit = self.larger_than_bytes
        return limit is not None and stat.S_ISREG(st.st_mode) and st.st_size > limit

    def skips_directory(self, directory_fd: int, names: list[bytes]) -> bool:
        """Whether a directory's content is left out for what lies in it."""
        if self.if_present and any(os.fsencode(name) in names for name in self.if_present):
            return True
        if not self.caches or _CACHE_TAG not in names:
            return False
        try:
            fd = os.open(_CACHE_TAG, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory_fd)
        except OSError:
            return False
        try:
            return os.read(fd, len(_CACHE_TAG_SIGNATURE)) == _CACHE_TAG_SIGNATURE
        finally:
            os.close(fd)
