"""The manifest: our own JSON document in a snapshot's tree, ``.holdfast/manifest.json``.

It says what the snapshot is of and how to put it together again, so that a repository
alone is enough to list, understand and restore everything. Pure values: `to_json` gives
the same bytes for the same manifest, `from_json` trusts nothing. Members that this
version does not know are kept through reading and writing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NoReturn

from holdfast.errors import Damaged, NewerVersion, UsageError
from holdfast.model.consistency import Consistency
from holdfast.model.finding import Finding

FORMAT = 1
"""The format that is written, and the newest that is read."""

MANIFEST_PATH = ".holdfast/manifest.json"
"""Where the document lies in a snapshot's tree."""

_HEX = frozenset("0123456789abcdef")


class SourceKind(StrEnum):
    """What a snapshot is of."""

    PATH = "path"
    DISK = "disk"
    VM = "vm"
    POD = "pod"
    TASK = "task"


@dataclass(frozen=True, slots=True)
class DiskManifest:
    """One disk: its shape, and where in the tree its segments are.

    `directory` is relative to the snapshot's root. `parent` is the id of the snapshot
    that the disk was read against, None for a whole read, whose `whole_read_reason` is
    a sentence. `sha256` is that of the whole raw disk in hexadecimal, where it is known.
    """

    name: str
    size_bytes: int
    chunk_size_bytes: int
    segment_size_bytes: int
    directory: str
    parent: str | None = None
    whole_read_reason: str | None = None
    sha256: str | None = None
    unknown: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot holds.

    `source` names the thing captured, `configuration` is whatever JSON its kind needs
    to make it again, `versions` names the programs that took part and their versions.
    """

    kind: SourceKind
    source: Mapping[str, str]
    created: datetime
    consistency: Consistency
    configuration: object = None
    disks: tuple[DiskManifest, ...] = ()
    findings: tuple[Finding, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, object] = field(default_factory=dict)

    def disk(self, name: str) -> DiskManifest | None:
        """The disk of that name, None if there is none."""
        return next((disk for disk in self.disks if disk.name == name), None)


def to_json(manifest: Manifest) -> bytes:
    """The document: UTF-8, sorted, indented; the same bytes for equal manifests.

    Raises `UsageError` for values that JSON cannot carry, or that `from_json` refuses.
    """
    if manifest.created.tzinfo is None:
        raise UsageError("The time of a manifest needs a time zone.")
    try:
        created = manifest.created.astimezone(UTC).replace(tzinfo=None)
    except OverflowError as error:
        raise UsageError(f"{manifest.created} is no time that a manifest can carry.") from error
    document = {
        **manifest.unknown,
        "format": FORMAT,
        "kind": str(manifest.kind),
        "source": dict(manifest.source),
        "created": created.isoformat(timespec="microseconds") + "Z",
        "consistency": str(manifest.consistency),
        "configuration": manifest.configuration,
        "disks": [_disk_document(disk) for disk in manifest.disks],
        "findings": [finding.as_dict() for finding in manifest.findings],
        "versions": dict(manifest.versions),
    }
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=1)
        # Bytes of file names that are not UTF-8 are lone surrogates, which this writes as
        # the JSON escape that reads back as the same.
        data = text.encode(errors="backslashreplace") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"The manifest holds what JSON cannot carry: {error}.") from error
    try:
        from_json(data)
    except Damaged as error:
        raise UsageError(f"The manifest would not be readable again. {error.message}") from error
    return data


def from_json(data: bytes) -> Manifest:
    """Read the document; `NewerVersion` for a later format, `Damaged` for anything else."""
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        _damaged(f"it is not JSON: {error}")
    root = _Members(document, "the document")
    version = root.integer("format", at_least=1)
    if version > FORMAT:
        raise NewerVersion(
            f"The snapshot's manifest has format {version}; this version of Holdfast reads up "
            f"to {FORMAT}. Upgrade Holdfast."
        )
    kind = root.text("kind")
    if kind not in list(SourceKind):
        raise NewerVersion(
            f"The snapshot is of a {kind!r}, which this version of Holdfast does not know. "
            "Upgrade Holdfast."
        )
    consistency = root.text("consistency")
    if consistency not in list(Consistency):
        _damaged(f"there is no consistency {consistency!r}")
    disks = tuple(_disk(item) for item in root.array("disks"))
    if len({disk.name for disk in disks}) < len(disks):
        _damaged("two disks have the same name")
    return Manifest(
        kind=SourceKind(kind),
        source=root.texts("source"),
        created=root.time("created"),
        consistency=Consistency(consistency),
        configuration=root.take("configuration", None),
        disks=disks,
        findings=tuple(_finding(item) for item in root.array("findings")),
        versions=root.texts("versions"),
        unknown=root.rest(),
    )


def _disk_document(disk: DiskManifest) -> dict[str, object]:
    return {
        **disk.unknown,
        "name": disk.name,
        "size_bytes": disk.size_bytes,
        "chunk_size_bytes": disk.chunk_size_bytes,
        "segment_size_bytes": disk.segment_size_bytes,
        "directory": disk.directory,
        "parent": disk.parent,
        "whole_read_reason": disk.whole_read_reason,
        "sha256": disk.sha256,
    }


def _disk(item: object) -> DiskManifest:
    members = _Members(item, "a disk")
    disk = DiskManifest(
        name=members.text("name"),
        size_bytes=members.integer("size_bytes", at_least=0),
        chunk_size_bytes=members.integer("chunk_size_bytes", at_least=1),
        segment_size_bytes=members.integer("segment_size_bytes", at_least=1),
        directory=members.text("directory"),
        parent=members.hexadecimal("parent"),
        whole_read_reason=members.text_or_none("whole_read_reason"),
        sha256=members.hexadecimal("sha256"),
        unknown=members.rest(),
    )
    if disk.segment_size_bytes % disk.chunk_size_bytes:
        _damaged(f"disk {disk.name!r} has segments that are not whole chunks")
    # The directory is looked up in trees and becomes a path on restore.
    if any(part in ("", ".", "..") for part in disk.directory.split("/")):
        _damaged(f"disk {disk.name!r} lies in {disk.directory!r}, which is no path in a snapshot")
    if "\x00" in disk.directory:
        _damaged(f"disk {disk.name!r} lies in a directory with a zero byte in its name")
    return disk


def _finding(item: object) -> Finding:
    members = _Members(item, "a finding")
    return Finding(members.text("code"), members.text("message"), members.text("subject"))


class _Members:
    """The members of a JSON object, taken one by one, each of the type that is due."""

    def __init__(self, item: object, what: str) -> None:
        if not isinstance(item, dict):
            _damaged(f"{what} is not an object")
        self._left: dict[str, object] = dict(item)
        self._what = what

    def take(self, name: str, *default: object) -> object:
        if name not in self._left and default:
            return default[0]
        if name not in self._left:
            _damaged(f"{self._what} has no {name!r}")
        return self._left.pop(name)

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            _damaged(f"{name!r} of {self._what} is not a string")
        return value

    def text_or_none(self, name: str) -> str | None:
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return self.text(name)

    def hexadecimal(self, name: str) -> str | None:
        value = self.text_or_none(name)
        if value is not None and (len(value) != 64 or not _HEX.issuperset(value)):
            _damaged(f"{name!r} of {self._what} is not 64 hexadecimal digits")
        return value

    def integer(self, name: str, *, at_least: int) -> int:
        value = self.take(name)
        # True is an int to Python, and a mistake here.
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            _damaged(f"{name!r} of {self._what} is not a whole number from {at_least} up")
        return value

    def array(self, name: str) -> list[object]:
        value = self.take(name, [])
        if not isinstance(value, list):
            _damaged(f"{name!r} of {self._what} is not an array")
        return value

    def texts(self, name: str) -> dict[str, str]:
        value = self.take(name)
        if not isinstance(value, dict):
            _damaged(f"{name!r} of {self._what} is not an object")
        if not all(isinstance(text, str) for text in value.values()):
            _damaged(f"{name!r} of {self._what} holds something that is not a string")
        return value

    def time(self, name: str) -> datetime:
        value = self.text(name)
        try:
            time = datetime.fromisoformat(value)
            if time.tzinfo is None:
                _damaged(f"{name!r} of {self._what} has no time zone")
            return time.astimezone(UTC)
        except (ValueError, OverflowError):
            _damaged(f"{name!r} of {self._what} is not a time: {value!r}")

    def rest(self) -> dict[str, object]:
        return self._left


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _damaged(reason: str) -> NoReturn:
    raise Damaged(
        f"The snapshot's manifest is damaged: {reason}. Its files can still be restored as "
        "plain files; verify the repository."
    )
