from __future__ import annotations

from collections.abc import Iterable

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import schedules, scope, snapshots, sources
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import AuditEntry, Host, Source
from holdfast.errors import (
    BadPattern,
    Forbidden,
    NameTaken,
    NotFound,
    NotReady,
    PathEscapesRoot,
    PathOutsideRoots,
    UsageError,
)


def create(world: World, host: Host, path: str, who: Principal | None = None) -> Source:
    with world.database.write() as tx:
        return sources.create(
            tx, who or world.principal(), host_id=host.id, path=path, now=world.now
        )


def test_a_path_becomes_a_source(world: World) -> None:
    """B2"""
    host = world.add_host()
    row = create(world, host, "/root//models/")
    assert (row.path, row.kind, row.account_id) == ("/root/models", "path", world.account.id)
    with world.database.read() as tx:
        assert sources.get(tx, world.principal(), row.id).path == "/root/models"
        entry = tx.scalars(select(AuditEntry)).one()
    assert (entry.action, entry.subject_id) == ("source.create", row.id)


def test_refused_paths_leave_nothing(world: World) -> None:
    """B2"""
    host = world.add_host()
    with pytest.raises(PathOutsideRoots):
        create(world, host, "/var/log")
    with pytest.raises(PathEscapesRoot):
        create(world, host, "/root/../etc")
    with world.database.read() as tx:
        assert sources.sources(tx, world.principal()).items == []


def test_a_path_of_a_host_is_protected_once(world: World) -> None:
    host, other = world.add_host(), world.add_host()
    row = create(world, host, "/root/models")
    with pytest.raises(NameTaken, match=row.id):
        create(world, host, "/root/models/")
    create(world, other, "/root/models")
    with world.database.write() as tx:
        sources.remove(tx, world.principal(), row.id, now=world.now)
    assert create(world, host, "/root/models").id != row.id


def test_options_are_checked(world: World) -> None:
    row = world.add_source(world.add_host())
    who = world.principal()
    good = {"exclude": ["*.tmp", "/cache/"], "one_file_system": True, "consistency": "live"}
    with world.database.write() as tx:
        assert sources.edit(tx, who, row.id, options=good, now=world.now).options == good
    for wrong in (
        {"exclude": "*.tmp"},
        {"one_file_system": "yes"},
        {"consistency": "frozen"},
        {"speed": 3},
    ):
        with pytest.raises(UsageError), world.database.write() as tx:
            sources.edit(tx, who, row.id, options=wrong, now=world.now)
    with pytest.raises(BadPattern), world.database.write() as tx:
        sources.edit(tx, who, row.id, options={"exclude": ["[a"]}, now=world.now)
    assert world.again(row).options == good


def test_removing_a_source_ends_its_schedules_and_runs_and_keeps_its_snapshots(
    world: World,
) -> None:
    """B9"""
    host = world.add_host()
    source = world.add_source(host)
    kept = world.add_snapshot(source, world.add_repository())
    who = world.principal()
    with world.database.write() as tx:
        schedule = schedules.create(
            tx, who, source_id=source.id, preset="daily", retention={"keep_last": 3}, now=world.now
        )
        waiting = snapshots.request(tx, who, source_id=source.id, now=world.now, keys=world.keys)
    with world.database.write() as tx:
        sources.remove(tx, who, source.id, now=world.now)
    assert world.again(schedule).removed_at == world.now
    assert world.again(schedule).due_at is None
    assert world.again(waiting).status == "CANCELLED"
    assert world.again(kept).status == "COMPLETED"
    with world.database.read() as tx:
        assert sources.sources(tx, who).items == []
        assert [each.id for each in sources.sources(tx, who, removed=True).items] == [source.id]
    with pytest.raises(NotReady), world.database.write() as tx:
        snapshots.request(tx, who, source_id=source.id, now=world.now, keys=world.keys)


def test_a_revoked_host_takes_no_new_source(world: World) -> None:
    host = world.add_host(revoked_at=world.now)
    with pytest.raises(NotReady, match="revoked"):
        create(world, host, "/root/a")


def test_others_sources_are_not_found(world: World) -> None:
    """A4"""
    source = world.add_source(world.add_host())
    stranger = world.principal(world.add_account("Other"))
    with world.database.write() as tx:
        assert sources.sources(tx, stranger).items == []
        with pytest.raises(NotFound):
            sources.get(tx, stranger, source.id)
        with pytest.raises(NotFound):
            sources.edit(tx, stranger, source.id, labels={}, now=world.now)
        with pytest.raises(NotFound):
            sources.remove(tx, stranger, source.id, now=world.now)
        with pytest.raises(NotFound):
            sources.create(tx, stranger, host_id=source.host_id, path="/root/x", now=world.now)


@pytest.mark.parametrize("row_id", ["", "a\0b", "ä", "x" * 5000, "' OR 1=1 --"])
def test_what_cannot_be_an_id_is_not_found(world: World, row_id: str) -> None:
    """A4"""
    with world.database.read() as tx, pytest.raises(NotFound):
        sources.get(tx, world.principal(), row_id)


def test_rights_are_asked_for(world: World) -> None:
    """A2"""
    host = world.add_host()
    source = world.add_source(host)
    reader = world.principal(rights=[Right.READ])
    with pytest.raises(Forbidden):
        create(world, host, "/root/b", reader)
    with pytest.raises(Forbidden), world.database.write() as tx:
        sources.remove(tx, reader, source.id, now=world.now)
    with pytest.raises(Forbidden), world.database.read() as tx:
        sources.sources(tx, world.principal(rights=[Right.CREATE]))


def names(found: Iterable[Source]) -> set[str]:
    return {each.path for each in found}


def test_a_narrowed_token_sees_its_own_part(world: World) -> None:
    """A2"""
    mine, other = world.add_host(), world.add_host()
    a = world.add_source(mine, "/root/a")
    b = world.add_source(mine, "/root/b")
    c = world.add_source(other, "/root/c")
    by_host = world.principal(resources=frozenset({mine.id}))
    by_source = world.principal(resources=frozenset({c.id}))
    by_kind = world.principal(kinds=frozenset({"vm"}))
    agent = world.agent(mine)
    with world.database.read() as tx:
        assert names(sources.sources(tx, by_host).items) == {"/root/a", "/root/b"}
        assert names(sources.sources(tx, by_source).items) == {"/root/c"}
        assert names(sources.sources(tx, by_kind).items) == set()
        assert names(sources.sources(tx, agent).items) == {"/root/a", "/root/b"}
        for who, hidden in ((by_host, c), (by_source, a), (by_kind, b), (agent, c)):
            with pytest.raises(NotFound):
                sources.get(tx, who, hidden.id)
        assert sources.get(tx, by_source, c.id).path == "/root/c"
        assert scope.find(tx, agent, Host, mine.id).id == mine.id
        with pytest.raises(NotFound):
            scope.find(tx, agent, Host, other.id)


def test_sources_are_listed_page_by_page(world: World) -> None:
    host = world.add_host()
    for number in range(5):
        world.advance(seconds=1)
        world.add_source(host, f"/root/{number}")
    who = world.principal()
    with world.database.read() as tx:
        first = sources.sources(tx, who, limit=3)
        second = sources.sources(tx, who, limit=3, cursor=first.next_cursor)
        found = sources.sources(tx, who, search="ROOT/2")
    assert [each.path[-1] for each in first.items + second.items] == ["4", "3", "2", "1", "0"]
    assert second.next_cursor is None
    assert names(found.items) == {"/root/2"}
