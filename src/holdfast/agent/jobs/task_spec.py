"""What a job of kind `task` is told: one instance of a task, as values.

Parsed once; what is not there, or not what it should be, is a `UsageError` that says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.errors import UsageError

_GRACE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Filters:
    """Which files of the directory: RE2 expressions on relative paths, or None for all."""

    whitelist: str | None = None
    blacklist: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any] | None) -> Filters:
        document = document or {}
        return cls(_text_or_none(document, "whitelist"), _text_or_none(document, "blacklist"))


@dataclass(frozen=True, slots=True)
class Input:
    """What is copied before the start: the objects of a bucket below a prefix."""

    bucket: str
    prefix: str = ""
    strip_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The snapshot that an instance starts from; `path` is where it was captured."""

    manifest_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Results:
    """The final results: their snapshot's id, or None where none are kept."""

    snapshot_id: str | None = None
    filters: Filters = Filters()
    on_cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One instance. `number` counts from 0, of `instances`."""

    task_id: str
    instance_id: str
    number: int
    instances: int
    name: str
    profile: str
    constants: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    source_id: str = ""
    starts_from: Beginning | None = None
    results: Results = Results()
    time_limit_seconds: int | None = None
    grace_seconds: float = _GRACE_SECONDS


def task_spec(document: Mapping[str, Any]) -> TaskSpec:
    """The spec of a job; raises `UsageError`."""
    try:
        beginning = document.get("starts_from")
        results = document.get("results") or {}
        limit = document.get("time_limit_seconds")
        return TaskSpec(
            task_id=str(document["task_id"]),
            instance_id=str(document["instance_id"]),
            number=int(document["number"]),
            instances=int(document.get("instances") or 1),
            name=str(document.get("name") or ""),
            profile=str(document["profile"]),
            constants={str(k): str(v) for k, v in (document.get("constants") or {}).items()},
            inputs=tuple(
                Input(
                    str(each["bucket"]),
                    str(each.get("prefix") or ""),
                    str(each.get("strip_prefix") or ""),
                )
                for each in document.get("inputs") or ()
            ),
            source_id=str(document.get("source_id") or ""),
            starts_from=None
            if not beginning
            else Beginning(str(beginning["manifest_id"]), str(beginning["captured_path"])),
            results=Results(
                _text_or_none(results, "snapshot_id"),
                Filters.of(results),
                bool(results.get("on_cancel")),
            ),
            time_limit_seconds=None if limit is None else int(limit),
            grace_seconds=float(document.get("grace_seconds", _GRACE_SECONDS)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"The job is not what a task needs ({error}); is the server of another version?"
        ) from None


def _text_or_none(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return None if value is None else str(value)
