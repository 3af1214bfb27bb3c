"""Which one a person means: a server's things by id, by the beginning of one, or by name.

An id that is complete is taken as it is. Whatever else must fit exactly one thing;
otherwise the error says how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from holdfast.errors import NotFound, UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.hosts import Host
    from holdfast.sdk.schedules import Schedule
    from holdfast.sdk.snapshots import Snapshot
    from holdfast.sdk.sources import Source
    from holdfast.sdk.task_snapshots import TaskSnapshot
    from holdfast.sdk.tasks import Task


class Known(Protocol):
    """Something with an id."""

    @property
    def id(self) -> str:
        """It, for the server."""
        ...


T = TypeVar("T", bound=Known)

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHORTEST = 4
_MOST = 2000


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def host_id(client: Client, text: str) -> str:
    return text if is_id(text) else host_of(client, text).id


def host_of(client: Client, text: str) -> Host:
    if is_id(text):
        return client.hosts.get(text)
    return _one("host", text, client.hosts.list(), lambda host: (host.name,))


def source_id(client: Client, text: str) -> str:
    return text if is_id(text) else source_of(client, text).id


def source_of(client: Client, text: str) -> Source:
    """A source by id, by its path, or by ``HOST:PATH``."""
    if is_id(text):
        return client.sources.get(text)
    host, colon, path = text.partition(":")
    if colon and path.startswith("/"):
        found = client.sources.list(host_id=host_id(client, host))
        return _one("source", path, found, lambda source: (source.path,))
    return _one("source", text, client.sources.list(), lambda source: (source.path,))


def schedule_id(client: Client, text: str) -> str:
    return text if is_id(text) else schedule_of(client, text).id


def schedule_of(client: Client, text: str) -> Schedule:
    if is_id(text):
        return client.schedules.get(text)
    return _one("schedule", text, client.schedules.list(), lambda schedule: (schedule.name,))


def snapshot_id(client: Client, text: str) -> str:
    return text if is_id(text) else snapshot_of(client, text).id


def snapshot_of(client: Client, text: str) -> Snapshot:
    """A snapshot by id or name; ``latest`` is the newest that is complete."""
    if is_id(text):
        return client.snapshots.get(text)
    if text == "latest":
        newest = next(client.snapshots.list(status="COMPLETED"), None)
        if newest is None:
            raise NotFound("There is no complete snapshot yet; `holdfast snapshot list` has all.")
        return newest
    return _one("snapshot", text, client.snapshots.list(), lambda snapshot: (snapshot.name,))


def task_of(client: Client, text: str) -> Task:
    """A task by id or short name, or the newest of that name."""
    if is_id(text):
        return client.tasks.get(text)
    named: Task | None = None
    for each in client.tasks.list(search=text):
        if each.short_name == text:
            return each
        if named is None and each.name == text:
            named = each
    return named or _one("task", text, client.tasks.list(), lambda _task: ())


def task_id(client: Client, text: str) -> str:
    return text if is_id(text) else task_of(client, text).id


def task_snapshot_of(client: Client, text: str) -> TaskSnapshot:
    """A snapshot of a task, which has no name but its id."""
    if not is_id(text):
        raise NotFound(
            f"{text!r} is no id of a task's snapshot; `holdfast task snapshots TASK` has them."
        )
    return client.task_snapshots.get(text)


def task_part_id(client: Client, text: str) -> str:
    """The snapshot of one instance: ``ID`` of a task's snapshot, or ``ID#NUMBER``."""
    named, hash_sign, number = text.partition("#")
    snapshot = task_snapshot_of(client, named)
    if not hash_sign and len(snapshot.parts) == 1:
        return snapshot.parts[0].id
    found = [each for each in snapshot.parts if str(each.instance) == number]
    if found:
        return found[0].id
    if not snapshot.parts:
        raise NotFound(f"The snapshot {named} holds nothing; it is {snapshot.status}.")
    there = ", ".join(f"#{each.instance}" for each in snapshot.parts)
    raise UsageError(f"Write after {named} which instance is meant; it has {there}.")


def start_id(client: Client, text: str) -> str:
    """What a task can start from: a snapshot of a task by id, or any snapshot."""
    return text if is_id(text) else snapshot_id(client, text)


def member_id(client: Client, text: str) -> str:
    if is_id(text):
        return text
    return _one("member", text, client.members.list(), lambda member: (member.email,)).id


def region_id(client: Client, text: str) -> str:
    """A region by name; the only one where none is named."""
    if is_id(text):
        return text
    if not text:
        return _only("region", client.regions.list()).id
    return _one("region", text, client.regions.list(), lambda region: (region.name,)).id


def repository_id(client: Client, text: str) -> str:
    """A repository by id; the only one where none is named."""
    if is_id(text):
        return text
    if not text:
        return _only("repository", client.repositories.list()).id
    return _one("repository", text, client.repositories.list(), lambda _each: ()).id


def _only(noun: str, among: Iterable[T]) -> T:
    found = list(islice(among, 2))
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"There is no {noun} yet.")
    raise UsageError(f"There are several; name one of `holdfast {noun} list`.")


def _one(noun: str, text: str, among: Iterable[T], names: Callable[[T], tuple[str, ...]]) -> T:
    listed = list(islice(among, _MOST))
    found = [each for each in listed if text in names(each)]
    if not found and len(text) >= _SHORTEST:
        found = [each for each in listed if each.id.startswith(text)]
    if not found:
        raise NotFound(f"There is no {noun} {text!r}; `holdfast {noun} list` has them all.")
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} {noun}s are called {text!r}; name one by its id: "
            f"{', '.join(each.id for each in found[:5])}."
        )
    return found[0]
