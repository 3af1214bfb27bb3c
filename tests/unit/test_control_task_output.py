"""What a task's commands wrote: kept once, read whole or since last time, up to a limit."""

from __future__ import annotations

import pytest
from control_tasks import Tasks
from control_world import World

from holdfast.control import task_output, task_text
from holdfast.control.tables import Host, Job, Task
from holdfast.errors import Forbidden, NotFound, UsageError


@pytest.fixture
def made(world: World) -> Tasks:
    return Tasks(world)


def whole(made: Tasks, task: Task, stream: str = "stdout", number: int | None = None) -> bytes:
    with made.world.database.read() as tx:
        pieces = task_output.whole(tx, made.world.principal(), task.id, stream, number=number)
        return b"".join(pieces)


def new(made: Tasks, task: Task, number: int | None = None) -> bytes:
    with made.world.database.write() as tx:
        who = made.world.principal()
        return task_output.read_new(tx, who, task.id, "stdout", number=number).data


def test_pieces_are_kept_once_and_in_order(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host)
    first = made.output(b"one\n")
    made.say(host, job, first, first, made.output(b"err", stream="stderr"))
    assert made.say(host, job)["output"] == {"stdout": 4, "stderr": 3}
    made.say(host, job, made.output(b"e\ntwo\n", 2))
    made.say(host, job, made.output(b"beyond a gap", 100))
    assert whole(made, task) == b"one\ntwo\n"
    assert whole(made, task, "stderr") == b"err"
    made.finish(host, job, messages=[made.output(b"last\xff\x00", 8)])
    assert whole(made, task) == b"one\ntwo\nlast\xff\x00"
    assert made.instances(task)[0].stdout_bytes == 14


def test_reading_since_last_time(world: World, made: Tasks) -> None:
    """T1: standard output can be read whole or since last read."""
    host = made.host()
    task, job = made.running(host)
    assert new(made, task) == b""
    made.say(host, job, made.output(b"one"))
    assert new(made, task) == b"one"
    assert new(made, task) == b""
    made.say(host, job, made.output(b"two", 3))
    assert new(made, task, number=0) == b"onetwo", "it has a place of its own"
    assert new(made, task) == b"two"
    assert whole(made, task) == b"onetwo"


def test_of_several_instances(world: World, made: Tasks) -> None:
    host = made.host()
    task = made.submit(instance_count=2)
    claimed = {job.spec["number"]: job for job in (made.claim(host), made.claim(host))}
    made.say(host, claimed[1], made.output(b"b"))
    made.say(host, claimed[0], made.output(b"a"))
    made.say(host, claimed[1], made.output(b"B", 1))
    assert whole(made, task) == b"baB"
    assert whole(made, task, number=1) == b"bB"
    for number in (2, -1, 10**30):
        with pytest.raises(NotFound):
            whole(made, task, number=number)


def test_pages_go_on_where_the_last_one_ended(world: World, made: Tasks) -> None:
    host = made.host()
    task, job = made.running(host)
    pieces = [b"x" * 100 for _ in range(150)]
    for start in range(0, 150, 50):
        sent = [made.output(pieces[n], 100 * n) for n in range(start, start + 50)]
        made.say(host, job, *sent)
    found, after = b"", 0
    with world.database.read() as tx:
        while True:
            page = task_output.read(
                tx, world.principal(), task.id, "stdout", after_id=after, limit_bytes=999
            )
            if not page.data:
                break
            assert len(page.data) == 900 or len(found) + len(page.data) == 15_000
            found, after = found + page.data, page.last_id
        assert page.last_id == after
        one = task_output.read(tx, world.principal(), task.id, "stdout", limit_bytes=1)
    assert len(found) == 15_000
    assert one.data == pieces[0], "at least one piece"


def test_too_much_is_cut_and_said(
    world: World, made: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_output, "LIMIT_BYTES", 5)
    host = made.host()
    task, job = made.running(host)
    made.say(host, job, made.output(b"abc"), made.output(b"defgh", 3), made.output(b"ij", 8))
    made.say(host, job, made.output(b"fgh", 5))
    assert whole(made, task) == b"abcde"
    assert [each["code"] for each in world.again(task).findings] == ["output_cut"]


def test_who_may_read(world: World, made: Tasks) -> None:
    host: Host = made.host()
    task, job = made.running(host)
    assert isinstance(job, Job)
    with world.database.write() as tx:
        for right in ("read", "create", "delete", "administer"):
            with pytest.raises(Forbidden):
                task_output.read(tx, world.principal(rights=[right]), task.id, "stdout")
        other = world.principal(world.operator_account)
        with pytest.raises(NotFound):
            task_output.read_new(tx, other, task.id, "stdout")
        with pytest.raises(UsageError):
            task_output.whole(tx, world.principal(), task.id, "stdin")


def text(made: Tasks, task: Task, *, limit_bytes: int = 1, number: int | None = None) -> list[str]:
    """The pages of a task's output as text, asked for one after the other."""
    found: list[str] = []
    after = 0
    with made.world.database.read() as tx:
        while True:
            page = task_text.read(
                tx,
                made.world.principal(),
                task.id,
                "stdout",
                number=number,
                after_id=after,
                limit_bytes=limit_bytes,
            )
            if page.last_id == after:
                return found
            found.append(page.text)
            after = page.last_id


def test_no_page_ends_inside_a_character(world: World, made: Tasks) -> None:
    """T1: output that is read page after page is the text that was written."""
    host = made.host()
    task, job = made.running(host)
    written = "a€𝄞ü".encode() + b"\xff\xe2\x82b\xf0\x9d"
    made.say(host, job, *(made.output(written[n : n + 1], n) for n in range(len(written))))
    pages = text(made, task)
    assert len(pages) == len(written)
    assert [each for each in pages if each] == ["a", "€", "𝄞", "ü", "�", "�b"]
    assert "".join(text(made, task, limit_bytes=5)) == "a€𝄞ü��b"
    made.say(host, job, made.output(b"\x84\x9e", len(written)))
    assert "".join(text(made, task)) == "a€𝄞ü��b𝄞"
    made.finish(host, job, messages=[made.output(b"\xe2\x82", len(written) + 2)])
    assert "".join(text(made, task)) == "a€𝄞ü��b𝄞�", "here the stream ends inside one"
    assert "".join(text(made, task, limit_bytes=100)) == whole(made, task).decode(
        "utf-8", "replace"
    )


def test_a_character_that_comes_in_two_readings(world: World, made: Tasks) -> None:
    """T1: since last time, too."""
    host = made.host()
    task, job = made.running(host)
    found = []
    for number, byte in enumerate("é!".encode()):
        made.say(host, job, made.output(bytes([byte]), number))
        with world.database.write() as tx:
            found.append(task_text.read_new(tx, world.principal(), task.id, "stdout").text)
    assert found == ["", "é", "!"]


def test_each_instance_has_its_own_text(world: World, made: Tasks) -> None:
    host = made.host()
    task = made.submit(instance_count=2)
    claimed = {job.spec["number"]: job for job in (made.claim(host), made.claim(host))}
    made.say(host, claimed[0], made.output(b"a\xe2"))
    made.say(host, claimed[1], made.output(b"b\xc3"))
    made.say(host, claimed[0], made.output(b"\x82\xac", 2))
    made.say(host, claimed[1], made.output(b"\xbc", 2))
    assert text(made, task) == ["a", "b", "€", "ü"]
    assert text(made, task, limit_bytes=100) == ["ab€ü"]
    assert text(made, task, number=1) == ["b", "ü"]
