"""What a restore would do: decisions about single entries, and their sum for a dry run.

`decide` is pure: it compares a node with the ``lstat`` of what stands at its place. It
touches nothing and reads nothing. Every path that would be replaced or deleted is in the
plan by name; what would be created or left is counted.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from holdfast.errors import UsageError
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.metadata import node_type
from holdfast.sources.path.tally import FindingTally


class Overwrite(StrEnum):
    """What may happen to entries that exist in the target already."""

    NEVER = "never"
    IF_CHANGED = "if-changed"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How a restore treats its target.

    `in_place` allows a root that holds entries; `overwrite` says which of them may be
    replaced; `delete_extra` allows those to be deleted that the snapshot has not. `within`
    is a directory, as the kernel names it, that the root must lie in; empty is anywhere.
    """

    in_place: bool = False
    overwrite: Overwrite = Overwrite.IF_CHANGED
    delete_extra: bool = False
    owner: bool = True
    xattrs: bool = True
    within: bytes = b""

    def __post_init__(self) -> None:
        if self.delete_extra and not self.in_place:
            raise UsageError("deleting extra entries needs a restore in place; ask for both")


class Action(StrEnum):
    """What a restore does with one entry."""

    CREATE = "create"
    OVERWRITE = "overwrite"  # its content is written anew, under a new inode
    UPDATE = "update"  # its content stays, its metadata changes
    LEAVE = "leave"
    SKIP = "skip"  # cannot or may not be restored; a finding says why
    DELETE = "delete"


class Decision(NamedTuple):
    """An action and why.

    `code` is the finding's code when the entry is skipped, `frees_bytes` what replacing the
    existing entry gives back to the file system. `clear`: a directory is in the way, and
    what `plan_clearing` lists must be deleted first.
    """

    action: Action
    reason: str = ""
    code: str = ""
    frees_bytes: int = 0
    clear: bool = False


class Deletion(NamedTuple):
    """One entry that is in the target and not in the snapshot."""

    path: bytes
    directory: bool
    frees_bytes: int


def freed_bytes(existing: os.stat_result) -> int:
    """What removing one name of an entry frees: nothing while it has other names."""
    if stat.S_ISDIR(existing.st_mode) or existing.st_nlink > 1:
        return 0
    return existing.st_blocks * 512


_CREATE = Decision(Action.CREATE)
_SKIPPED_TYPES = {
    NodeType.SOCKET: Decision(
        Action.SKIP, "a socket exists only while its program runs", "socket_skipped"
    ),
    NodeType.IRREGULAR: Decision(
        Action.SKIP, "the snapshot does not know what kind of file this was", "irregular_skipped"
    ),
}


def decide(
    node: Node,
    existing: os.stat_result | None,
    policy: Overwrite,
    *,
    delete_extra: bool = False,
    compare_owner: bool = True,
    same_linktarget: bool = True,
    same_xattrs: bool = True,
    same_content: bool | None = None,
) -> Decision:
    """Compare a node with what stands at its place (None: nothing).

    Files count as the same when size and modification time agree; when the caller has
    compared the bytes, `same_content` says what came out and the time does not matter.
    """
    skipped = _SKIPPED_TYPES.get(node.type)
    if skipped is not None:
        return skipped
    if existing is None:
        return _CREATE
    kind = node_type(existing.st_mode)
    if kind is not node.type:
        return _conflict(node, existing, policy, delete_extra=delete_extra)
    if policy is Overwrite.NEVER:
        return Decision(Action.LEAVE, "exists")
    if node.type is not NodeType.DIRECTORY:
        reason = _content_reason(node, existing, policy, same_linktarget, same_content)
        if reason:
            return Decision(Action.OVERWRITE, reason, "", freed_bytes(existing))
    reason = _metadata_reason(node, existing, compare_owner, same_xattrs)
    if not reason:
        return Decision(Action.LEAVE, "unchanged")
    if node.type is not NodeType.DIRECTORY and existing.st_nlink > 1:
        # Changing the inode would change the file's other names too, wherever they are.
        return Decision(Action.OVERWRITE, f"{reason}, and it has other names")
    return Decision(Action.UPDATE, reason)


def _conflict(
    node: Node, existing: os.stat_result, policy: Overwrite, *, delete_extra: bool
) -> Decision:
    kind = node_type(existing.st_mode)
    reason = f"a {kind} stands where a {node.type} belongs"
    if policy is Overwrite.NEVER:
        return Decision(Action.SKIP, f"{reason}, and nothing may be overwritten", "type_conflict")
    if kind is NodeType.DIRECTORY and not delete_extra:
        advice = "move the directory away, or allow extra entries to be deleted"
        return Decision(Action.SKIP, f"{reason}; {advice}", "type_conflict")
    clear = kind is NodeType.DIRECTORY
    return Decision(Action.OVERWRITE, reason, "", freed_bytes(existing), clear)


def _content_reason(
    node: Node,
    existing: os.stat_result,
    policy: Overwrite,
    same_linktarget: bool,
    same_content: bool | None,
) -> str:
    if policy is Overwrite.ALWAYS:
        return "everything is to be overwritten"
    if node.type is NodeType.FILE:
        if existing.st_size != node.size:
            return "its size differs"
        if same_content is None:
            return "" if existing.st_mtime_ns == node.mtime_ns else "its modification time differs"
        return "" if same_content else "its content differs"
    if node.type is NodeType.SYMLINK:
        return "" if same_linktarget else "it points elsewhere"
    return "" if existing.st_rdev == node.device else "its device number differs"


def _metadata_reason(
    node: Node, existing: os.stat_result, compare_owner: bool, same_xattrs: bool
) -> str:
    if compare_owner and (existing.st_uid, existing.st_gid) != (node.uid, node.gid):
        return "its owner differs"
    if node.type is not NodeType.SYMLINK and stat.S_IMODE(existing.st_mode) != node.mode:
        return "its mode differs"
    if not same_xattrs:
        return "its extended attributes differ"
    return "" if existing.st_mtime_ns == node.mtime_ns else "its modification time differs"


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The sum of all decisions; what ``--dry-run`` prints.

    `bytes_` are logical file sizes per action, for deletions what they free. `needed_bytes`
    is what the target must have free at most: new files, growth, and room for the largest
    file that is replaced, since the old one stays until the new one is whole. Holes are not
    deducted.
    """

    counts: dict[Action, int]
    bytes_: dict[Action, int]
    overwritten: tuple[tuple[bytes, str], ...]
    deletions: tuple[Deletion, ...]
    findings: tuple[Finding, ...]
    needed_bytes: int
    needed_entries: int


@dataclass(slots=True)
class PlanBuilder:
    """Collects decisions; `build` gives the plan. Not a value, and used by one thread."""

    _counts: dict[Action, int] = field(default_factory=lambda: dict.fromkeys(Action, 0))
    _bytes: dict[Action, int] = field(default_factory=lambda: dict.fromkeys(Action, 0))
    _overwritten: list[tuple[bytes, str]] = field(default_factory=list)
    _deletions: list[Deletion] = field(default_factory=list)
    _tally: FindingTally = field(default_factory=FindingTally)
    _largest_replaced: int = 0
    _freed_bytes: int = 0

    def add(self, path: bytes, node: Node, decision: Decision, *, linked: bool = False) -> None:
        """Count a decision about the entry at `path`.

        `linked`: it is a further name of a file that has been added, and holds no bytes.
        """
        action = decision.action
        size = 0 if linked else node.size
        self._counts[action] += 1
        self._bytes[action] += size
        if action is Action.OVERWRITE:
            self._overwritten.append((path, decision.reason))
            self._largest_replaced = max(self._largest_replaced, size)
            self._freed_bytes += decision.frees_bytes
        elif action is Action.SKIP:
            self._tally.add(decision.code, decision.reason, path)

    def delete(self, deletion: Deletion) -> None:
        self._counts[Action.DELETE] += 1
        self._bytes[Action.DELETE] += deletion.frees_bytes
        self._freed_bytes += deletion.frees_bytes
        self._deletions.append(deletion)

    def build(self) -> RestorePlan:
        written = self._bytes[Action.CREATE] + self._bytes[Action.OVERWRITE]
        return RestorePlan(
            counts=dict(self._counts),
            bytes_=dict(self._bytes),
            overwritten=tuple(self._overwritten),
            deletions=tuple(self._deletions),
            findings=self._tally.findings(),
            needed_bytes=max(0, written - self._freed_bytes + self._largest_replaced),
            needed_entries=self._counts[Action.CREATE],
        )
