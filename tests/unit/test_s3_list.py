"""Listings of buckets: pages of objects and views are what a plain sorted set would show."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.gateway.s3.list import Listed, Listing, Source, listing
from holdfast.gateway.s3.view import Folder, folder_of, walk
from holdfast.model.node import Node, NodeType

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.text("ab-/.\ufffd\U0001f600", min_size=1, max_size=6)
PATHS = st.lists(st.text("ab-.\U0001f600", min_size=1, max_size=3), min_size=1, max_size=4).map(
    "/".join
)
PREFIXES = st.one_of(st.just(""), st.text("ab-/", max_size=3))
DELIMITERS = st.sampled_from(["", "/", "-", "a", "//", "/-"])


def objects(keys: Sequence[str], hidden: Sequence[str] = ()) -> Source:
    """Objects, and keys that are hidden from T0 + 5 days on."""

    def source(after: str) -> Generator[Listed, None, None]:
        for key in sorted({*keys, *hidden}):
            if key > after:
                hides = None if key in keys else T0 + timedelta(days=5)
                yield Listed(key, 1000, len(key), "object", T0, hides=hides)

    return source


class Tree:
    """Files by path, as a snapshot's folders."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.folders: dict[bytes, list[Node]] = {b"": []}
        self.paths: set[str] = set()
        for path in paths:
            self._add(path)

    def _add(self, path: str) -> None:
        if any(path.startswith(each + "/") or each.startswith(path + "/") for each in self.paths):
            return  # a file cannot be a folder as well
        self.paths.add(path)
        tree = b""
        *above, name = path.split("/")
        for each in above:
            below = tree + b"/" + each.encode()
            if below not in self.folders:
                self.folders[below] = []
                self.folders[tree].append(Node(each.encode(), NodeType.DIRECTORY, subtree=below))
            tree = below
        nodes = self.folders[tree]
        if all(node.name != name.encode() for node in nodes):
            nodes.append(Node(name.encode(), NodeType.FILE, size=1))
            nodes.sort(key=lambda node: node.name)

    def load(self, tree: bytes) -> Folder:
        return folder_of(self.folders[tree])

    def source(self, view_prefix: str, prefix: str, rank: int, made_at: datetime) -> Source:
        def source(after: str) -> Generator[Listed, None, None]:
            inner = prefix[len(view_prefix) :] if prefix.startswith(view_prefix) else ""
            if after.startswith(view_prefix):
                behind = after[len(view_prefix) :]
            elif after > view_prefix:
                return
            else:
                behind = ""
            for path, _ in walk(b"", self.load, prefix=inner, after=behind):
                yield Listed(view_prefix + path, rank, 1, f"view {rank}", T0, made_at=made_at)

        return source


def all_pages(
    sources: Sequence[Source], prefix: str, delimiter: str, limit: int, after: str = ""
) -> list[Listing]:
    pages = []
    while True:
        page = listing(sources, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        pages.append(page)
        assert len(page.entries) + len(page.prefixes) <= limit
        if not page.truncated:
            return pages
        # Who begins inside a common prefix is told of that prefix first, which is less.
        assert page.last > after or (len(pages) == 1 and after.startswith(page.last))
        after = page.last


def reference(
    keys: Sequence[str], prefix: str, delimiter: str, after: str = ""
) -> tuple[list[str], list[str]]:
    """Plain keys and common prefixes behind a key, by the words of the documentation."""
    plain, groups = [], []
    for key in sorted(set(keys), key=str.encode):
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            plain.append(key)
            continue
        group = key[: at + len(delimiter)]
        if group != after and group not in groups:
            groups.append(group)
    return plain, groups


@settings(max_examples=100)
@given(
    st.lists(NAMES, max_size=25),
    PREFIXES,
    DELIMITERS,
    st.integers(1, 6),
    st.one_of(st.just(""), NAMES),
)
def test_pages_of_objects_are_those_of_a_sorted_set(
    keys: list[str], prefix: str, delimiter: str, limit: int, after: str
) -> None:
    matching = [key for key in keys if key.startswith(prefix)]
    pages = all_pages([objects(matching)], prefix, delimiter, limit, after)
    found = [entry.key for page in pages for entry in page.entries]
    groups = [group for page in pages for group in page.prefixes]
    expected = reference(keys, prefix, delimiter, after)
    assert (found, groups) == expected


@settings(max_examples=80)
@given(
    st.lists(PATHS, max_size=15),
    st.lists(PATHS, max_size=15),
    st.lists(PATHS, max_size=10),
    st.lists(PATHS, max_size=5),
    PREFIXES,
    DELIMITERS,
    st.integers(1, 5),
)
def test_objects_lie_over_views_and_later_views_over_earlier_ones(  # noqa: PLR0917
    old: list[str],
    new: list[str],
    put: list[str],
    deleted: list[str],
    prefix: str,
    delimiter: str,
    limit: int,
) -> None:
    trees = [Tree(old), Tree(new)]
    # The first view was there when keys were hidden, the second one came later.
    made = [T0, T0 + timedelta(days=9)]
    places = ["a/", "a/"]
    hidden = [f"a/{path}" for path in deleted]
    sources = [
        tree.source(place, prefix, rank, at)
        for rank, (tree, place, at) in enumerate(zip(trees, places, made, strict=True))
        if place.startswith(prefix) or prefix.startswith(place)
    ]
    matching = [key for key in put if key.startswith(prefix)]
    sources.append(objects(matching, [key for key in hidden if key.startswith(prefix)]))
    expected = {f"a/{path}": "view 0" for path in trees[0].paths}
    expected = {key: tag for key, tag in expected.items() if key not in hidden}
    expected |= {f"a/{path}": "view 1" for path in trees[1].paths}
    expected |= dict.fromkeys(put, "object")
    plain, groups = reference(list(expected), prefix, delimiter)
    pages = all_pages(sources, prefix, delimiter, limit)
    assert [(each.key, each.etag) for page in pages for each in page.entries] == [
        (key, expected[key]) for key in plain
    ]
    assert [group for page in pages for group in page.prefixes] == groups


@settings(max_examples=80)
@given(st.lists(PATHS, max_size=25), st.text("ab-/.", max_size=5), st.text("ab-/.", max_size=5))
def test_a_walk_begins_where_it_is_asked_to(paths: list[str], prefix: str, after: str) -> None:
    tree = Tree(paths)
    found = [path for path, _ in walk(b"", tree.load, prefix=prefix, after=after)]
    wanted = [path for path in tree.paths if path.startswith(prefix) and path > after]
    assert found == sorted(wanted)


def test_a_walk_reads_no_folder_that_it_can_pass_over() -> None:
    tree = Tree([f"d{number:03}/f{each}" for number in range(100) for each in range(3)])
    read: list[bytes] = []

    def load(tree_id: bytes) -> Folder:
        read.append(tree_id)
        return tree.load(tree_id)

    found = [path for path, _ in walk(b"", load, prefix="d09", after="d098/f1")]
    assert found == ["d098/f2", "d099/f0", "d099/f1", "d099/f2"]
    assert read == [b"", b"/d098", b"/d099"]


def test_a_common_prefix_of_many_keys_is_jumped_over() -> None:
    asked: list[str] = []
    keys = [f"a/{number:05}" for number in range(5000)] + ["b"]

    def source(after: str) -> Generator[Listed, None, None]:
        asked.append(after)
        for key in keys:
            if key > after:
                assert key[2:] < "00100", "what one common prefix stands for is not read through"
                yield Listed(key, 1, modified_at=T0)

    page = listing([source], prefix="", delimiter="/", after="", limit=10)
    assert (page.prefixes, [each.key for each in page.entries]) == (["a/"], ["b"])
    assert len(asked) == 2


def test_no_room_is_an_empty_page() -> None:
    page = listing([objects(["a"])], prefix="", delimiter="", after="", limit=0)
    assert (page.entries, page.prefixes, page.truncated) == ((), (), False)
