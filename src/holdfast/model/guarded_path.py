"""A guarded path: a path on a host, inside one of the roots that the host lets be protected.

Decided on the text alone; nothing here looks at a file system. Symbolic links can only be
followed on the machine itself, so the agent checks again where a path really leads.
Invariant: what `check_path` accepts begins with its root, component by component, and has
no component that climbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast.errors import (
    PathEscapesRoot,
    PathMalformed,
    PathNotAbsolute,
    PathOutsideRoots,
)

MAX_PATH_BYTES: Final = 4095
"""What Linux takes: PATH_MAX without its zero byte."""

MAX_NAME_BYTES: Final = 255
RESTORED_DIRECTORY: Final = "restored"


@dataclass(frozen=True, slots=True)
class Root:
    """A guarded root: `path` as people write it, `directory` where it lies on the machine."""

    path: str
    directory: str


def roots_of(documents: Iterable[Mapping[str, Any]]) -> list[Root]:
    """The roots that a host's record lists, each ``{"path": ..., "directory": ...}``."""
    return [Root(str(each["path"]), str(each["directory"])) for each in documents]


def canonical_path(path: str) -> str:
    """The one way to write an absolute path: single slashes, none at the end, no ``.``.

    Raises a `PathRefused` that says what is wrong with it.
    """
    _check_text(path)
    if not path.startswith("/"):
        raise PathNotAbsolute(
            f"The path {path!r} is relative; write the whole path, beginning with /."
        )
    return "/" + "/".join(_components(path))


def canonical_selection(path: str) -> str:
    """The one way to write a path inside a snapshot, relative to what was captured."""
    _check_text(path)
    if path.startswith("/"):
        raise PathMalformed(
            f"The selected path {path!r} begins with /; write it relative to the path that was "
            "captured, such as models/a."
        )
    components = _components(path)
    if not components:
        raise PathMalformed(
            f"The selected path {path!r} is the whole snapshot; leave the selection out for that."
        )
    return "/".join(components)


def check_path(path: str, roots: Sequence[Root]) -> Root:
    """The root that holds `path`, the innermost if there are several; `PathRefused` if none."""
    wanted = canonical_path(path)
    holding = [root for root in roots if _is_inside(wanted, canonical_path(root.path))]
    if not holding:
        known = ", ".join(root.path for root in roots) or "none so far"
        raise PathOutsideRoots(
            f"The path {wanted} is outside of what this host lets be protected ({known}); "
            "choose a path inside, or have an administrator add a root to the host."
        )
    return max(holding, key=lambda root: len(canonical_path(root.path)))


def directory_of(path: str, roots: Sequence[Root]) -> str:
    """Where `path` lies on the machine, its root being mapped onto the root's directory."""
    root = check_path(path, roots)
    below = canonical_path(path).removeprefix(canonical_path(root.path)).lstrip("/")
    directory = root.directory.rstrip("/")
    return f"{directory}/{below}" if below else directory or "/"


def default_restore_target(roots: Sequence[Root]) -> str:
    """``<root>/restored`` in the host's first root."""
    if not roots:
        raise PathOutsideRoots(
            "This host has no guarded root, so nothing can be restored onto it; have an "
            "administrator add one to the host."
        )
    return f"{canonical_path(roots[0].path).rstrip('/')}/{RESTORED_DIRECTORY}"


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root.endswith("/") else f"{root}/")


def _check_text(path: str) -> None:
    if not path:
        raise PathMalformed("The path is empty; write one that begins with /, such as /root.")
    if "\0" in path:
        raise PathMalformed("The path contains a zero byte, which no file name can; remove it.")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise PathMalformed(
            "The path is not UTF-8; give the directory a name that is, or protect the one above."
        ) from None
    if len(encoded) > MAX_PATH_BYTES:
        raise PathMalformed(
            f"The path has {len(encoded)} bytes, and {MAX_PATH_BYTES} are possible; protect a "
            "directory further up."
        )


def _components(path: str) -> list[str]:
    components = [each for each in path.split("/") if each not in ("", ".")]
    for each in components:
        if each == "..":
            raise PathEscapesRoot(
                f"The path {path!r} contains '..'; write the path that is meant, without it."
            )
        if len(each.encode()) > MAX_NAME_BYTES:
            raise PathMalformed(
                f"A name in the path has {len(each.encode())} bytes, and {MAX_NAME_BYTES} are "
                "possible; check how the path is written."
            )
    return components
