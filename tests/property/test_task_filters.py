"""T4: the filters of a task's snapshots, against Python's own regular expressions."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_sample import Task, nothing_runs

from holdfast.errors import BadPattern
from holdfast.flows.task_capture import CaptureRequest
from holdfast.model.node import NodeType

LETTERS = "ab1._-é "
NAMES = st.text(LETTERS, min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.lists(PATHS, max_size=12)

ATOMS = st.one_of(
    st.sampled_from([".", "[ab]", "[^a/]", r"\d", r"\.", "/", r"[a-z]", "é"]),
    st.sampled_from(LETTERS).map(re.escape),
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map("(?:{})".format)
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join).map("(?:{})".format),
        st.tuples(group, st.sampled_from(["*", "+", "?", "{1,2}", "*?"])).map("".join),
    )


PATTERNS = st.tuples(
    st.sampled_from(["", "^"]),
    st.recursive(ATOMS, larger, max_leaves=5),
    st.sampled_from(["", "$"]),
).map("".join)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def planted(task: Task, paths: list[str]) -> dict[str, int]:
    """Make files at these paths, where nothing is in the way; return their sizes."""
    shutil.rmtree(task.job)
    task.job.mkdir()
    made: dict[str, int] = {}
    for number, path in enumerate(paths):
        file = task.job / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_dir():
                file.write_bytes(b"x" * (number + 1))
                made[path] = number + 1
        except (NotADirectoryError, FileExistsError):
            continue
    return made


def wanted(files: dict[str, int], whitelist: str | None, blacklist: str | None) -> dict[str, int]:
    """The reference: search in the path below /job, and the blacklist wins."""

    def finds(pattern: str, path: str) -> bool:
        return re.search(pattern, path, re.ASCII) is not None

    return {
        path: size
        for path, size in files.items()
        if (whitelist is None or finds(whitelist, path))
        and not (blacklist is not None and finds(blacklist, path))
    }


@pytest.fixture(scope="module")
def task(base: Path) -> Task:
    return Task(base)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    paths=TREES, whitelist=st.none() | PATTERNS, blacklist=st.none() | PATTERNS, still=st.booleans()
)
def test_t4_a_capture_takes_what_the_filters_say_and_so_does_its_preview(
    task: Task, paths: list[str], whitelist: str | None, blacklist: str | None, *, still: bool
) -> None:
    files = planted(task, paths)
    expected = wanted(files, whitelist, blacklist)
    shown = task.capturer.preview(whitelist, blacklist, limit=100)
    assert {path.decode(): size for path, size in shown.entries} == expected
    assert [path for path, _ in shown.entries] == sorted(path.encode() for path in expected)
    request = CaptureRequest(whitelist, blacklist, freeze=nothing_runs if still else None)
    result = task.capturer.capture(request)
    nodes = task.nodes(result)
    taken = {path: node.size for path, node in nodes.items() if node.type is NodeType.FILE}
    assert taken == expected
    assert (result.files, result.logical_bytes) == (len(expected), sum(expected.values()))
    assert (shown.files, shown.logical_bytes, shown.cut) == (
        result.files,
        result.logical_bytes,
        False,
    )


@given(paths=TREES, pattern=PATTERNS)
@settings(max_examples=20, derandomize=True, deadline=None)
def test_t4_the_blacklist_wins(task: Task, paths: list[str], pattern: str) -> None:
    planted(task, paths)
    assert task.capturer.preview(pattern, pattern, limit=5).files == 0


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+$", r"(.*a){20}b", r"([a-z]+)*x$"])
def test_t4_catastrophic_patterns_take_linear_time(task: Task, pattern: str) -> None:
    planted(task, ["/".join(["a" * 200] * 10) + "!", "b"])
    # Python's own expressions would not come back from this.
    assert task.capturer.preview(pattern, None, limit=5).files <= 1
    assert task.capturer.preview(None, pattern, limit=5).files >= 1


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", r"(?P<x>a)(?P=x)", "(?=a)b", "(?<!a)b", "(", "[", "a{2000}", "*"]
)
def test_t4_what_has_no_linear_time_or_no_meaning_is_refused_at_once(
    task: Task, pattern: str
) -> None:
    for filters in ((pattern, None), (None, pattern)):
        with pytest.raises(BadPattern):
            task.capturer.preview(*filters, limit=5)
        with pytest.raises(BadPattern):
            task.capturer.capture(CaptureRequest(*filters))
