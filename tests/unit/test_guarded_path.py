from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import (
    PathEscapesRoot,
    PathMalformed,
    PathNotAbsolute,
    PathOutsideRoots,
    PathRefused,
    UsageError,
)
from holdfast.model.guarded_path import (
    Root,
    canonical_path,
    canonical_selection,
    check_path,
    default_restore_target,
    directory_of,
    roots_of,
)

ROOT = Root("/root", "/root")
DATA = Root("/data", "/srv/pods/7/data")
INNER = Root("/root/inner", "/mnt/inner")


@pytest.mark.parametrize("path", ["/root", "/root/models", "/root/project/data"])
def test_paths_inside_the_root_are_accepted(path: str) -> None:
    """B2"""
    assert check_path(path, [ROOT]) == ROOT
    assert canonical_path(path) == path


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/home/user/documents", PathOutsideRoots),
        ("/tmp/backup", PathOutsideRoots),
        ("/var/log", PathOutsideRoots),
        ("/rootless", PathOutsideRoots),
        ("/", PathOutsideRoots),
        ("root/models", PathNotAbsolute),
        ("./root", PathNotAbsolute),
        ("~/models", PathNotAbsolute),
        ("/root/../etc", PathEscapesRoot),
        ("/root/a/..", PathEscapesRoot),
        ("/..", PathEscapesRoot),
        ("", PathMalformed),
        ("/root/a\0b", PathMalformed),
        ("/root/\udcff", PathMalformed),
        ("/root/" + "a" * 256, PathMalformed),
        ("/root" + "/abcdefg" * 600, PathMalformed),
    ],
)
def test_refused_paths_say_what_to_do(path: str, refusal: type[PathRefused]) -> None:
    """B2"""
    with pytest.raises(refusal) as caught:
        check_path(path, [ROOT])
    assert isinstance(caught.value, UsageError)
    assert type(caught.value) is refusal
    assert caught.value.message.endswith((".", "/root"))
    assert ";" in caught.value.message, "what happened; what to do"


def test_each_refusal_has_a_code_of_its_own() -> None:
    kinds = (PathRefused, PathMalformed, PathNotAbsolute, PathEscapesRoot, PathOutsideRoots)
    codes = [each.code for each in kinds]
    assert len(set(codes)) == 5
    assert "path_outside_roots" in codes


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/root/", "/root"),
        ("//root//a/", "/root/a"),
        ("/root/./a", "/root/a"),
        ("/", "/"),
        ("/root/...", "/root/..."),
        ("/root/..a", "/root/..a"),
    ],
)
def test_a_path_has_one_way_to_be_written(path: str, canonical: str) -> None:
    """B2"""
    assert canonical_path(path) == canonical


def test_the_innermost_root_holds_a_path() -> None:
    roots = [ROOT, INNER, DATA]
    assert check_path("/root/inner/a", roots) == INNER
    assert check_path("/root/inner2", roots) == ROOT
    assert directory_of("/root/inner/a/b", roots) == "/mnt/inner/a/b"
    assert directory_of("/data/", roots) == "/srv/pods/7/data"
    assert directory_of("/data/x//y", roots) == "/srv/pods/7/data/x/y"


def test_a_root_may_be_the_whole_machine() -> None:
    whole = [Root("/", "/")]
    assert check_path("/etc", whole) == whole[0]
    assert directory_of("/", whole) == "/"
    assert directory_of("/etc", whole) == "/etc"
    assert default_restore_target(whole) == "/restored"


def test_a_host_without_roots_lets_nothing_be_protected() -> None:
    with pytest.raises(PathOutsideRoots, match="none so far"):
        check_path("/root", [])
    with pytest.raises(PathOutsideRoots, match="no guarded root"):
        default_restore_target([])


def test_the_default_target_is_in_the_first_root() -> None:
    """B7"""
    assert default_restore_target([DATA, ROOT]) == "/data/restored"
    assert roots_of([{"path": "/data", "directory": "/srv/pods/7/data"}]) == [DATA]


@pytest.mark.parametrize(
    ("path", "canonical"), [("models", "models"), ("./models//a/", "models/a"), ("a/...", "a/...")]
)
def test_a_selection_is_relative_to_what_was_captured(path: str, canonical: str) -> None:
    """B7"""
    assert canonical_selection(path) == canonical


@pytest.mark.parametrize("path", ["/models", "", ".", "a/../..", "a\0"])
def test_a_selection_cannot_lead_outside(path: str) -> None:
    """B7"""
    with pytest.raises(PathRefused):
        canonical_selection(path)


@given(st.text(alphabet="/.ab\0", max_size=20).map(lambda text: f"/root{text}"))
def test_what_is_accepted_stays_inside(path: str) -> None:
    """B2"""
    try:
        check_path(path, [ROOT])
    except PathRefused:
        return
    written = canonical_path(path)
    assert written.split("/")[1] == "root"
    assert ".." not in written.split("/")
    assert canonical_path(written) == written
    assert directory_of(path, [ROOT]) == written
