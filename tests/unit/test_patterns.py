from __future__ import annotations

import pytest

from holdfast.errors import BadPattern
from holdfast.model.patterns import PathFilter, read_pattern_lines


def left(filter_: PathFilter, *paths: str) -> list[str]:
    """Which of the paths stay; a slash at the end marks a directory."""
    return [
        each
        for each in paths
        if not filter_.excludes(each.rstrip("/").encode(), each.endswith("/"))
    ]


def test_without_patterns_everything_stays() -> None:
    for empty in (PathFilter(), PathFilter([], ["# only a comment", "", "  "])):
        assert empty.passes_all
        assert not empty.excludes(b"a/b", False)
    assert not PathFilter(["*"]).passes_all


def test_the_captured_directory_itself_stays() -> None:
    assert not PathFilter(["*", "/**"]).excludes(b"", True)


def test_names_that_are_not_text() -> None:
    latin = "größe.log".encode("latin-1")
    for pattern in ("*.log", latin, b"gr[\xf0-\xff]\xdfe.log", "gr??e.log", b"*\xdf*"):
        assert PathFilter([pattern]).excludes(b"d/" + latin, False)
    assert PathFilter([b"\xff"]).excludes(b"\xff", False)
    assert PathFilter(["a*b"]).excludes(b"a\nb", False)
    assert PathFilter(["[!x]"]).excludes(b"\n", False)
    assert PathFilter(["größe.log"]).excludes("größe.log".encode(), False)
    # One sign stands for one byte, as in git.
    assert not PathFilter(["gr?e"]).excludes("grüe".encode(), False)


def test_nothing_is_included_again_below_an_excluded_directory() -> None:
    inner = PathFilter(["build/", "!build/keep.txt"])
    assert left(inner, "build/", "build/keep.txt", "build/a/b/c", "builder") == ["builder"]
    contents = PathFilter(["build/*", "!build/keep.txt"])
    assert left(contents, "build/", "build/keep.txt", "build/a") == ["build/", "build/keep.txt"]


def test_deep_paths_are_no_problem() -> None:
    deep = b"/".join([b"d"] * 2000)
    assert not PathFilter(["x"]).excludes(deep, True)
    assert PathFilter(["/d/d/d"]).excludes(deep, False)


def test_include_takes_what_it_matches_and_the_way_there() -> None:
    only = PathFilter(include=["/src/lib/", "docs/**/*.md", "!draft.md"])
    assert left(
        only,
        "src/",
        "src/lib/",
        "src/lib/a/b.c",
        "src/a.c",
        "src/other/",
        "docs/",
        "docs/x/y/",
        "docs/x/y/a.md",
        "docs/x/draft.md",
        "docs/a.txt",
        "other/",
        "a.md",
    ) == ["src/", "src/lib/", "src/lib/a/b.c", "docs/", "docs/x/y/", "docs/x/y/a.md"]
    anywhere = PathFilter(include=["*.py"])
    assert left(anywhere, "a/", "a/b.py", "a/b.c") == ["a/", "a/b.py"]
    again = PathFilter(include=["src/", "!src/tests/", "src/tests/keep"])
    assert left(again, "src/tests/", "src/tests/x", "src/tests/keep", "src/a") == [
        "src/tests/",
        "src/tests/keep",
        "src/a",
    ]


def test_exclude_wins_over_include() -> None:
    both = PathFilter(exclude=["*.tmp", "cache/"], include=["data/"])
    assert left(both, "data/", "data/a", "data/a.tmp", "data/cache/", "data/cache/a") == [
        "data/",
        "data/a",
    ]


def test_regular_expressions_are_searched_in_the_relative_path() -> None:
    white = PathFilter(whitelist=[r"\.ckpt$", "^logs/"])
    assert left(white, "a/", "a/x.ckpt", "a/x.ckpt.tmp", "logs/x", "a/logs/x") == [
        "a/",
        "a/x.ckpt",
        "logs/x",
    ]
    both = PathFilter(whitelist=["ckpt"], blacklist=["old"])
    assert left(both, "a.ckpt", "old.ckpt", "b") == ["a.ckpt"]
    assert left(PathFilter(blacklist=["(?i)TMP", "x"]), "a.tmp", "b", "x") == ["b"]
    assert left(PathFilter(blacklist=["a|b"]), "xa", "xb", "xc") == ["xc"]
    assert left(PathFilter(blacklist=[r"\Qa.b", "c"]), "a.b", "axb", "c") == ["axb"]
    assert left(PathFilter(blacklist=[r"\Qa", r"x\Q\Eb"]), "a", "xb", "c") == ["c"]
    assert left(PathFilter(blacklist=["(?P<n>a)", "(?P<n>b)"]), "a", "b", "c") == ["c"]
    assert left(PathFilter(blacklist=["(?i)a", "b|", "c"]), "x", "A") == []
    mixed = PathFilter(blacklist=[b"\xe9", "ü"])
    assert left(mixed, "e", "ü") == ["e"]
    assert mixed.excludes(b"\xe9", False)


def test_a_directory_is_left_out_only_when_everything_below_is() -> None:
    black = PathFilter(blacklist=["^cache/", "^end$", r"^a\b"])
    assert left(black, "cache/", "cache/x", "end/", "end/x", "end", "a/") == ["end/", "end/x", "a/"]
    # Where expression and name disagree about characters, nothing is left out on suspicion.
    odd = PathFilter(blacklist=["é?x/"])
    assert not odd.excludes(b"x", True)
    assert odd.excludes(b"x/a", False)
    assert not odd.excludes(b"x/\xff", False)


def test_expressions_see_characters_or_bytes() -> None:
    five = PathFilter(blacklist=["^.{5}$"])
    assert five.excludes("größe".encode(), False)
    assert five.excludes("größe".encode("latin-1"), False)
    assert PathFilter(blacklist=["^gr[öo]"]).excludes("größe".encode(), False)
    assert PathFilter(blacklist=[rb"\xf6"]).excludes("größe".encode("latin-1"), False)
    assert PathFilter(blacklist=[b"\xf6"]).excludes("größe".encode("latin-1"), False)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("[abc", "bracket is not closed"),
        ("[]", "bracket is not closed"),
        ("a[b-", "bracket is not closed"),
        ("[a\\", "bracket is not closed"),
        ("[[:alpha:]", "bracket is not closed"),
        ("[[:nope:]]", "no class"),
        ("a\\", "backslash at the end"),
        ("/", "names nothing"),
        ("!", "names nothing"),
        ("a//b", "two slashes"),
        ("//a", "two slashes"),
        ("a//", "two slashes"),
        ("./a", "top directory"),
        ("a/../b", "top directory"),
        ("a\x00", "zero byte"),
        ("a" * 10_001, "longer than"),
    ],
)
def test_bad_globs_are_named(pattern: str, reason: str) -> None:
    with pytest.raises(BadPattern, match=reason) as caught:
        PathFilter(exclude=["ok", pattern])
    assert caught.value.message.startswith("exclude pattern 2 of 2")
    with pytest.raises(BadPattern, match="include pattern 1 of 1"):
        PathFilter(include=[pattern])


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a)\1", "back-references"),
        ("(?=a)", "look-around"),
        ("(?<!a)b", "."),
        ("a(", r"missing \)"),
        ("[z-a]", "range"),
        ("a{1001}", "repetition"),
        ("a" * 10_001, "longer than"),
        ("*", "no argument"),
    ],
)
def test_bad_expressions_are_named(pattern: str, reason: str) -> None:
    with pytest.raises(BadPattern, match=reason) as caught:
        PathFilter(whitelist=["ok", pattern])
    assert caught.value.message.startswith("whitelist pattern 2 of 2")
    with pytest.raises(BadPattern, match="blacklist pattern 1 of 1"):
        PathFilter(blacklist=[pattern])


def test_what_would_hang_a_backtracking_matcher_ends() -> None:
    """One that tries all ways would need longer than the world is old."""
    name = b"a" * 4000
    evil = [
        PathFilter(["*a" * 200 + "b"]),
        PathFilter(["/**/a*" * 50 + "/b"]),
        PathFilter(blacklist=["(a*)*b", "(a|aa)+$x"]),
        PathFilter(blacklist=["(.*)" * 30 + "x"]),
    ]
    for each in evil:
        assert not each.excludes(name, False)


def test_lines_of_a_file() -> None:
    lines = read_pattern_lines(b"\xef\xbb\xbf# note\r\n*.o\r\n\n!keep.o\\ \nlast")
    assert lines == [b"# note", b"*.o", b"", b"!keep.o\\ ", b"last"]
    filtered = PathFilter(lines)
    assert left(filtered, "a.o", "keep.o", "last", "x") == ["x"]
