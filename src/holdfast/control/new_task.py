"""A task that somebody wishes for, checked before anything is made of it.

It makes no rows. Invariant: what `checked` returns can be kept and run as it is: filters
parse, names and sizes are within bounds, and every constant is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from holdfast.control.storable import storable_document
from holdfast.control.task_profiles import checked_constants, profile_named
from holdfast.errors import UsageError
from holdfast.model.caption import check_labels, check_text
from holdfast.model.patterns import PathFilter

MAX_INSTANCES: Final = 256
MAX_INPUTS: Final = 64
MAX_TAGS: Final = 64
MAX_PERIOD_SECONDS: Final = 7 * 86400
MAX_TIME_LIMIT_SECONDS: Final = 366 * 86400
MAX_PREFIX: Final = 900
_MAX_EXTRA_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class NewTask:
    """What a task shall be.

    `constants` are names and values. `inputs` are ``{"bucket": ..., "prefix": "",
    "strip_prefix": ""}``: what is in the working directory before the command begins, each
    object at its key without the prefix to strip. The filters are regular expressions,
    searched in the path below the working directory. `starts_from` is the id of a snapshot
    of a task, or of any snapshot. `periodic_options` may have whitelist, blacklist, bucket,
    bucket_prefix. `extra` is kept for a client that wants it back.
    """

    name: str
    profile: str
    constants: Sequence[tuple[str, str]] = ()
    inputs: Sequence[Mapping[str, str]] = ()
    result_bucket: str | None = None
    tags: Sequence[str] = ()
    labels: Mapping[str, object] = field(default_factory=dict)
    instance_count: int = 1
    short_name: str | None = None
    runs_on: str | None = None
    snapshot_whitelist: str | None = None
    snapshot_blacklist: str | None = None
    results_whitelist: str | None = None
    results_blacklist: str | None = None
    results_on_cancel: bool = False
    starts_from: str | None = None
    time_limit_seconds: int | None = None
    periodic_seconds: int | None = None
    periodic_options: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def checked(new: NewTask) -> NewTask:
    """The same with everything as it is kept; `UsageError` or `BadPattern` says what is wrong."""
    checked_constants(profile_named(new.profile), new.constants)
    if not 1 <= new.instance_count <= MAX_INSTANCES:
        raise UsageError(
            f"A task has 1 to {MAX_INSTANCES} instances, not {new.instance_count}; submit several."
        )
    limit = new.time_limit_seconds
    if limit is not None and not 1 <= limit <= MAX_TIME_LIMIT_SECONDS:
        raise UsageError(f"A time limit is 1 to {MAX_TIME_LIMIT_SECONDS} seconds, not {limit}.")
    pairs = (
        (new.snapshot_whitelist, new.snapshot_blacklist),
        (new.results_whitelist, new.results_blacklist),
    )
    for whitelist, blacklist in pairs:
        check_filters(whitelist, blacklist)
    if new.periodic_seconds is not None:
        check_interval(new.periodic_seconds)
    return replace(
        new,
        name=check_name(new.name, "task"),
        inputs=_checked_inputs(new.inputs),
        short_name=check_name(new.short_name, "short name") if new.short_name else None,
        tags=checked_tags(new.tags),
        labels=check_labels(new.labels),
        periodic_options=checked_place(new.periodic_options),
        extra=storable_document(new.extra, limit_bytes=_MAX_EXTRA_BYTES),
    )


def _checked_inputs(inputs: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    if len(inputs) > MAX_INPUTS:
        raise UsageError(f"A task has at most {MAX_INPUTS} inputs, not {len(inputs)}.")
    kept = []
    for each in inputs:
        if not each.get("bucket"):
            raise UsageError("An input of a task is of a bucket; say of which.")
        texts = {name: each.get(name) or "" for name in ("bucket", "prefix", "strip_prefix")}
        for name, text in texts.items():
            check_text(text, f"{name} of an input", longest=1024)
        kept.append(texts)
    return kept


def check_name(name: str, what: str) -> str:
    """The name without spaces around it."""
    text = name.strip()
    if not text or len(text) > 200 or not text.isprintable():
        raise UsageError(f"The {what} needs 1 to 200 printable characters, to know it by.")
    return text


def checked_tags(tags: Sequence[str]) -> list[str]:
    """The tags, each once, in their order."""
    if len(tags) > MAX_TAGS:
        raise UsageError(f"There are {len(tags)} tags; at most {MAX_TAGS} are possible.")
    return list(dict.fromkeys(check_text(each, "tag", longest=200) for each in tags))


def check_filters(whitelist: str | None, blacklist: str | None) -> None:
    """Raise `BadPattern` that says which one cannot be used, and why."""
    PathFilter(
        whitelist=[whitelist] if whitelist else (), blacklist=[blacklist] if blacklist else ()
    )
    for each in (whitelist, blacklist):
        check_text(each or "", "pattern", longest=10_000)


def check_interval(seconds: int) -> None:
    """Raise `UsageError` for what cannot be the time from one periodic snapshot to the next."""
    if isinstance(seconds, bool) or not 1 <= seconds <= MAX_PERIOD_SECONDS:
        raise UsageError(
            f"The interval of periodic snapshots is 1 to {MAX_PERIOD_SECONDS} seconds, not "
            f"{seconds}."
        )


def checked_place(options: Mapping[str, Any]) -> dict[str, Any]:
    """Filters and place of a snapshot as they are kept; what is not given is None."""
    known = ("whitelist", "blacklist", "bucket", "bucket_prefix")
    kept: dict[str, Any] = dict.fromkeys(known)
    for name, value in options.items():
        if name not in kept:
            raise UsageError(f"A snapshot has no option {name[:40]!r}; it has {', '.join(known)}.")
        if value is not None and not isinstance(value, str):
            raise UsageError(f"The option {name} of a snapshot is a text.")
        kept[name] = value
    check_filters(kept["whitelist"], kept["blacklist"])
    if kept["bucket_prefix"]:
        check_text(kept["bucket_prefix"], "prefix in the bucket", longest=MAX_PREFIX)
    return kept
