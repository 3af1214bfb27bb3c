"""Our reading of ignore patterns against the genuine ``git check-ignore``."""

from __future__ import annotations

import os
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.errors import BadPattern
from holdfast.model.patterns import PathFilter

NAMES = (
    b"a",
    b"b",
    b"ab",
    b"a.b",
    b"foo",
    b"a b",
    b"#x",
    b"!x",
    b"a*",
    b"[a]",
    b"\xff\xfe",
    b"A-1",
)
PIECES = (
    *(b"a", b"b", b"ab", b"foo", b"."),
    *(b"*", b"*", b"**", b"?", b"[ab]", b"[!a]", b"[^a-f]", b"[]a]", b"[a-]", b"[\\]ab]"),
    *(b"[[:alpha:]]", b"[[:punct:][:digit:]]", b"[b-a]", b"[a/]", b"[\\a-c]", b"[[:]", b"[x[:a]"),
    *(
        b"\\*",
        b"\\a",
        b"\\[",
        b"\\ ",
        b" ",
        b"#",
        b"!",
        b"-",
        b"\xff",
        b"[\xf0-\xff]",
        b"[a",
        b"\\",
    ),
)


@dataclass(frozen=True)
class Case:
    """A small tree and some patterns for it."""

    patterns: tuple[bytes, ...]
    files: tuple[bytes, ...]
    directories: tuple[bytes, ...]

    def verdicts(self) -> dict[bytes, bool]:
        filter_ = PathFilter(self.patterns)
        entries = [(each, False) for each in self.files] + [
            (each, True) for each in self.directories
        ]
        random.Random(0).shuffle(entries)  # answers must not depend on the order of questions
        return {path: filter_.excludes(path, is_directory) for path, is_directory in entries}


def pattern_for(chance: random.Random, path: bytes) -> bytes:
    """A pattern that has to do with a path: a part of it with wildcards put in."""
    components = []
    for name in path.split(b"/"):
        at = chance.randrange(len(name))
        components.append(
            chance.choice(
                (
                    *(name, name, name[:at] + b"*", b"*" + name[at:], b"*", b"**"),
                    name[:at] + b"?" + name[at + 1 :],
                    name[:at] + b"[!b-z]" + name[at + 1 :],
                    name[:at] + b"\\" + name[at:],
                    name + b"/**",
                    b"**/" + name,
                )
            )
        )
    first = chance.randrange(len(components))
    kept = components[first:] if chance.random() < 0.4 else components
    pattern = chance.choice((b"", b"", b"/")) + b"/".join(kept) + chance.choice((b"", b"", b"/"))
    return chance.choice((b"", b"", b"!")) + pattern


def random_pattern(chance: random.Random) -> bytes:
    components = []
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        kind = chance.random()
        if kind < 0.15:
            components.append(b"**")
        elif kind < 0.45:
            components.append(chance.choice(NAMES[:5]))
        else:
            components.append(b"".join(chance.choices(PIECES, k=chance.randint(1, 3))))
    pattern = chance.choice((b"", b"", b"", b"/")) + b"/".join(components)
    pattern += chance.choice((b"", b"", b"", b"/", b" ", b"\\ "))
    return chance.choice((b"", b"", b"!")) + pattern


def differs_by_a_slip_of_git(pattern: bytes) -> bool:
    """Whether git reads this one otherwise than gitignore(5) says.

    Two stars directly behind the plain beginning of a pattern, as in ``foo**/bar``, work
    like a component of their own in git; the manual says that they are ordinary stars.
    """
    plain = re.match(rb"!?/?[^*?\[\\]*[^*?\[\\/]\*\*+(/|$|\\/)", pattern)
    return plain is not None


def random_case(chance: random.Random) -> Case:
    directories: set[bytes] = set()
    files: set[bytes] = set()
    for _ in range(chance.randint(3, 9)):
        components = [chance.choice(NAMES) for _ in range(chance.choice((1, 1, 2, 2, 3, 4)))]
        for depth in range(1, len(components)):
            directories.add(b"/".join(components[:depth]))
        (directories if chance.random() < 0.3 else files).add(b"/".join(components))
    files -= directories
    parents = {path[: path.rfind(b"/")] for path in files | directories if b"/" in path}
    assert not parents & files
    count = chance.choice((1, 1, 2, 3, 5))
    paths = sorted(files | directories)
    patterns = [
        random_pattern(chance)
        if chance.random() < 0.4
        else pattern_for(chance, chance.choice(paths))
        for _ in range(count)
    ]
    return Case(
        tuple(each for each in patterns if not differs_by_a_slip_of_git(each)),
        tuple(sorted(files)),
        tuple(sorted(directories)),
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "--quiet", path], check=True)
    return path


def ask_git(repository: Path, name: str, cases: list[Case]) -> list[dict[bytes, bool]]:
    """What git makes of each case; they lie side by side, each with its own .gitignore."""
    top = os.fsencode(repository)
    asked = []
    for number, case in enumerate(cases):
        prefix = f"{name}-{number}/".encode()
        os.mkdir(os.path.join(top, prefix))
        for directory in case.directories:
            os.makedirs(os.path.join(top, prefix, directory), exist_ok=True)
        for file in case.files:
            with open(os.path.join(top, prefix, file), "xb"):
                pass
        with open(os.path.join(top, prefix, b".gitignore"), "xb") as ignore:
            ignore.write(b"".join(each + b"\n" for each in case.patterns))
        asked += [prefix + each for each in (*case.files, *case.directories)]
    done = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=repository,
        input=b"".join(each + b"\x00" for each in asked),
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    ignored = set(done.stdout.split(b"\x00"))
    return [
        {
            each: f"{name}-{number}/".encode() + each in ignored
            for each in (*case.files, *case.directories)
        }
        for number, case in enumerate(cases)
    ]


def test_random_trees_and_patterns(repository: Path) -> None:
    chance = random.Random(20240601)
    cases: list[Case] = []
    refused: list[Case] = []
    while len(cases) < 1200:
        case = random_case(chance)
        try:
            case.verdicts()
        except BadPattern:
            if len(refused) < 300:
                refused += [
                    Case((each,), case.files, case.directories)
                    for each in case.patterns
                    if is_refused(each)
                ]
            continue
        cases.append(case)
    answers = ask_git(repository, "random", cases)
    for case, theirs in zip(cases, answers, strict=True):
        assert (case.patterns, case.verdicts()) == (case.patterns, theirs)
    assert sum(any(each.values()) and not all(each.values()) for each in answers) > 300

    # What we refuse, git accepts - and never matches anything with it.
    for case, theirs in zip(refused, ask_git(repository, "refused", refused), strict=True):
        assert (case.patterns, any(theirs.values())) == (case.patterns, False)


def is_refused(pattern: bytes) -> bool:
    try:
        PathFilter([pattern])
    except BadPattern:
        return True
    return False


def test_two_stars_inside_a_component_are_ordinary_stars(repository: Path) -> None:
    """As gitignore(5) says; git itself does otherwise (see `differs_by_a_slip_of_git`)."""
    case = Case((b"foo**/bar",), (b"foox/bar", b"foox/y/bar", b"foobar"), (b"foox", b"foox/y"))
    assert differs_by_a_slip_of_git(case.patterns[0])
    assert [path for path, out in case.verdicts().items() if out] == [b"foox/bar"]
    (theirs,) = ask_git(repository, "slip", [case])
    assert theirs[b"foox/y/bar"]


def test_one_component_at_the_top(repository: Path) -> None:
    """Every piece alone and in every pair, against every name."""
    cases = [
        Case((first + second,), NAMES, ())
        for first in PIECES
        for second in (b"", *PIECES)
        if not is_refused(first + second)
    ]
    for case, theirs in zip(cases, ask_git(repository, "pairs", cases), strict=True):
        assert (case.patterns, case.verdicts()) == (case.patterns, theirs)
