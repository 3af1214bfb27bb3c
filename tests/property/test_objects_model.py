"""Objects, copies, uploads and their bodies against a model: dictionaries of what is where.

After every step the counters are what a new count gives, and the bodies in use are exactly
those that the model's objects and parts are made of.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from control_database import make_tables
from control_shelf import PART, Shelf
from control_world import World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from holdfast.control import bodies
from holdfast.control.database import Database
from holdfast.control.tables import Body, Bucket, StoredObject, Upload, UploadPart
from holdfast.errors import InvalidPart, NoSuchKey, PartTooSmall

KEYS = st.sampled_from(["a", "a/b", "a/c", "b", "é"])
NAMES = st.sampled_from(["one", "two"])
SIZES = st.lists(st.sampled_from([0, 1, 7, PART]), max_size=3)

Content = tuple[tuple[str, int], ...]


class Objects(RuleBasedStateMachine):
    """Two buckets of one account."""

    template: ClassVar[Path]
    """A database with all tables; each run has its own copy of it."""

    def __init__(self) -> None:
        super().__init__()
        path = self.template.with_name("run.db")
        for each in self.template.parent.glob("run.db*"):
            each.unlink()
        shutil.copyfile(self.template, path)
        self.database = Database(f"sqlite:///{path}")
        self.shelf = Shelf(World(self.database))
        self.buckets = {name: self.shelf.bucket(name) for name in ("one", "two")}
        self.model: dict[tuple[str, str], Content | None] = {}
        """None stands for a key that is hidden."""
        self.uploads: list[tuple[str, Upload, dict[int, UploadPart]]] = []

    def teardown(self) -> None:
        self.database.close()

    def one_of_the_uploads(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.uploads) - 1))

    def new(self, name: str, sizes: list[int]) -> list[bodies.Piece]:
        return self.shelf.pieces(self.buckets[name], *sizes)

    @rule(name=NAMES, key=KEYS, sizes=SIZES)
    def put(self, name: str, key: str, sizes: list[int]) -> None:
        pieces = self.new(name, sizes)
        for _ in range(2):  # a repeated one changes nothing
            self.shelf.put(self.buckets[name], key, pieces=pieces)
        self.model[name, key] = tuple((each.id, each.bytes) for each in pieces)

    @rule(source=NAMES, source_key=KEYS, name=NAMES, key=KEYS)
    def copy(self, source: str, source_key: str, name: str, key: str) -> None:
        content = self.model.get((source, source_key))
        if content is None:
            with pytest.raises(NoSuchKey):
                self.shelf.copy(self.buckets[source], source_key, self.buckets[name], key)
            return
        self.shelf.copy(self.buckets[source], source_key, self.buckets[name], key)
        self.model[name, key] = content

    @rule(name=NAMES, keys=st.lists(KEYS, max_size=4))
    def delete(self, name: str, keys: list[str]) -> None:
        there = {each for each in keys if self.model.get((name, each)) is not None}
        assert set(self.shelf.delete(self.buckets[name], *keys)) == there
        for each in there:
            del self.model[name, each]

    @rule(name=NAMES, keys=st.lists(KEYS, max_size=3))
    def hide(self, name: str, keys: list[str]) -> None:
        self.shelf.hide(self.buckets[name], *keys)
        self.model.update({(name, each): None for each in keys})

    @rule(name=NAMES, key=KEYS)
    def upload(self, name: str, key: str) -> None:
        row = self.shelf.begin(self.buckets[name], key)
        self.uploads.append((name, row, {}))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), number=st.integers(1, 3), sizes=SIZES)
    def part(self, data: st.DataObject, number: int, sizes: list[int]) -> None:
        name, row, parts = self.uploads[self.one_of_the_uploads(data)]
        pieces = self.new(name, sizes)
        for _ in range(2):
            parts[number] = self.shelf.part(self.buckets[name], row, number, pieces=pieces)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        place = self.one_of_the_uploads(data)
        name, row, parts = self.uploads[place]
        chosen = data.draw(st.sets(st.integers(1, 3)))
        named = [parts[each] for each in sorted(chosen) if each in parts]
        if not named:
            with pytest.raises(InvalidPart):
                self.shelf.complete(self.buckets[name], row, named)
            return
        if any(each.size_bytes < PART for each in named[:-1]):
            with pytest.raises(PartTooSmall):
                self.shelf.complete(self.buckets[name], row, named)
            return
        made = self.shelf.complete(self.buckets[name], row, named)
        assert self.shelf.complete(self.buckets[name], row, named).id == made.id
        content = [each for part in named for each in part.bodies]
        self.model[name, row.key] = tuple((each["id"], each["bytes"]) for each in content)
        del self.uploads[place]

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name, row, _ = self.uploads.pop(self.one_of_the_uploads(data))
        self.shelf.abort(self.buckets[name], row)

    @rule(minutes=st.sampled_from([1, 20, 2000]))
    def remove_what_is_due(self, minutes: int) -> None:
        world = self.shelf.world
        world.advance(minutes=minutes)
        with self.database.read() as tx:
            due = bodies.due(tx, limit=1000, keys=world.keys, now=world.now)
        ids = [each.id for each in due]
        assert world.database.transact(lambda tx: bodies.removed(tx, ids, now=world.now)) == len(
            ids
        )

    @invariant()
    def the_model_is_what_there_is(self) -> None:
        self.shelf.check()
        names = {bucket.id: name for name, bucket in self.buckets.items()}
        with self.database.read() as tx:
            rows = tx.scalars(select(StoredObject)).all()
            used = set(tx.scalars(select(Body.id).where(Body.uses > 0)))
            stored = sum(tx.scalars(select(Bucket.stored_bytes)))
        found = {
            (names[row.bucket_id], row.key): None
            if row.hidden
            else tuple((each["id"], each["bytes"]) for each in row.bodies)
            for row in rows
        }
        assert found == self.model
        wanted = {each for content in self.model.values() for each in content or ()}
        for _, _, parts in self.uploads:
            wanted |= {
                (each["id"], each["bytes"]) for part in parts.values() for each in part.bodies
            }
        assert used == {body_id for body_id, _ in wanted}
        assert stored == sum(size for _, size in wanted)  # each body once


def test_objects_follow_the_model(tmp_path: Path) -> None:
    """On SQLite alone: what the databases do differently is in the tests of races."""
    template = tmp_path / "template.db"
    make_tables(f"sqlite:///{template}")

    class Model(Objects):
        pass

    Model.template = template
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
