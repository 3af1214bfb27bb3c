"""Whether a file's metadata, as it is seen now, will show the next change.

Two states of a file are told apart by inode, size, modification and change time. That fails
where a change leaves the same times as the one before it; then a file must be read again
although it looks the same. A backup that runs once a day takes a minute to be sure. A
capture every few seconds cannot: it would read everything that changed in the last minute
each time. The reasons for that minute, and what takes their place here:

- The kernel's clock for file times moves every 1 to 10 ms: a change is settled after 20 ms,
  if nothing can be writing, as when the writer is held still.
- A write moves the times when it begins. While the writer runs, a change is settled after 2
  seconds, longer than one write of a local disk lasts.
- Stores into a mapped page move the times once in half a minute, when the page was written
  back. A file that a program has mapped for writing is never settled. On a file system in
  memory there is no writing back: there such a file is always read.
- Times of a file server are those of its clock: there it stays a minute.
- Where times have no fraction, the file system counts whole seconds: then 3 seconds.

Steps of the clock do no harm, because times are compared for being equal: after a step a
change has another time than before, and one in the future counts as not settled. Values
only; what is mapped is passed in.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import Final

STILL_NS: Final = 20_000_000
RUNNING_NS: Final = 2_000_000_000
WHOLE_SECONDS_NS: Final = 3_000_000_000
REMOTE_NS: Final = 60_000_000_000

_LOCAL: Final = frozenset(
    {"bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "msdos", "overlay", "tmpfs",
     "vfat", "xfs", "zfs"}
)  # fmt: skip
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_READ_LATER: Final = frozenset({"btrfs"})
"""Where a snapshot is read when the computation may have unmapped what it had mapped."""
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Settling:
    """The rule for one pass over a directory.

    `since_ns` is a moment before anything of it was read, and before `mapped` was looked
    up; `still` says that nobody writes while it is read. Where `mapped` is None nobody has
    looked, and no file counts as settled.
    """

    since_ns: int
    mapped: frozenset[int] | None = frozenset()
    kind: str = "ext4"
    still: bool = False

    @property
    def window_ns(self) -> int:
        if self.kind not in _LOCAL and self.kind not in _IN_MEMORY:
            return REMOTE_NS
        return STILL_NS if self.still else RUNNING_NS

    @property
    def never_trusted(self) -> frozenset[int]:
        """Inodes that must be read whatever their times say."""
        return (self.mapped or frozenset()) if self.kind in _IN_MEMORY else frozenset()

    @property
    def needs_mapped(self) -> bool:
        """Whether what is mapped must be known before anything is looked at.

        Elsewhere it matters only for what is read, and looking takes time on a machine with
        many programs.
        """
        return self.kind in _IN_MEMORY or self.kind in _READ_LATER

    def held_still(self) -> Settling:
        """The same moment, for a pass during which nobody writes."""
        return replace(self, still=True)

    def is_settled(self, st: os.stat_result) -> bool:
        """Whether the next change of what is read now will have other times."""
        changed_ns = st.st_ctime_ns
        window_ns = self.window_ns
        if changed_ns % _SECOND_NS == 0:
            window_ns = max(window_ns, WHOLE_SECONDS_NS)
        if changed_ns >= self.since_ns - window_ns:
            return False
        if not stat.S_ISREG(st.st_mode):
            return True
        return self.mapped is not None and st.st_ino not in self.mapped
