"""A glob: one line of a filter in the language of ``.gitignore``, translated for RE2.

The meaning is that of gitignore(5), on bytes. What git accepts silently although it can
never match anything (an open bracket, ``a//b``, ``./a``) is refused here with BadPattern,
because a filter that does nothing is a mistake of whoever wrote it. The translation only
has shapes that RE2 matches in linear time; nothing here matches anything itself.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from holdfast.errors import BadPattern

_SPECIAL = re.compile(rb"[*?\[\\]")
_ANY = b"[^/]*"
_ONE = b"[^/]"
_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, range(32))) + "\x7f",
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class Glob:
    """One compiled line.

    `anchored`: it names a whole relative path; otherwise the last component of one at any
    depth. `expression` is an RE2 source in Latin-1 for all of that text. `literal`: the
    text itself where no wildcard is in it; `suffix`: what follows a single leading star.
    `leading`: expressions of the directories above what an anchored glob can match.
    """

    negated: bool
    directories_only: bool
    anchored: bool
    expression: bytes
    literal: bytes | None
    suffix: bytes | None
    leading: tuple[bytes, ...]


def parse_glob(line: bytes) -> Glob | None:
    """Compile one line; None for a comment or an empty one. Raises BadPattern with the reason."""
    text = _without_trailing_spaces(line)
    if not text or text.startswith(b"#"):
        return None
    negated = text.startswith(b"!")
    text = text[negated:]
    directories_only = text.endswith(b"/")
    text = text[: len(text) - directories_only]
    anchored = b"/" in text
    text = text.removeprefix(b"/")
    if not text:
        raise BadPattern("it names nothing; to match everything write *")
    if b"\x00" in text:
        raise BadPattern("a name cannot contain a zero byte")
    translation = _Translation(text, anchored=anchored)
    wild = _SPECIAL.search(text)
    suffix = None
    if not anchored and text.startswith(b"*") and not _SPECIAL.search(text, 1):
        suffix = text[1:]
    return Glob(
        negated=negated,
        directories_only=directories_only,
        anchored=anchored,
        expression=b"".join(translation.pieces),
        literal=text if wild is None else None,
        suffix=suffix,
        leading=tuple(translation.leading) if anchored else (b".*",),
    )


def _without_trailing_spaces(line: bytes) -> bytes:
    """Spaces at the end go, up to one that is escaped."""
    kept = line.rstrip(b" ")
    backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return line[: len(kept) + 1] if backslashes % 2 and len(kept) < len(line) else kept


class _Translation:
    """The pieces of one expression, from left to right."""

    def __init__(self, text: bytes, *, anchored: bool) -> None:
        self._text = text
        self._anchored = anchored
        self._at = 0
        self._component = 0
        self.pieces: list[bytes] = []
        self.leading: list[bytes] = []
        while self._at < len(text):
            self._step()
        self._end_component(len(text))

    def _end_component(self, at: int) -> None:
        component = self._text[self._component : at]
        if not component:
            raise BadPattern("two slashes in a row never match; write one")
        if component in (b".", b".."):
            raise BadPattern("'.' and '..' never match; begin with / for the top directory")
        self._component = at + 1

    def _step(self) -> None:
        char = self._text[self._at : self._at + 1]
        if char == b"*":
            self._stars()
            return
        if char == b"[":
            self._bracket()
            return
        self._at += 1
        if char == b"?":
            self.pieces.append(_ONE)
            return
        if char == b"\\":
            char = self._text[self._at : self._at + 1]
            self._at += 1
            if not char:
                raise BadPattern("a backslash at the end escapes nothing; write \\\\ for one")
        if char == b"/":
            self._end_component(self._at - 1)
            self.leading.append(b"".join(self.pieces))
        self.pieces.append(_quoted(char))

    def _stars(self) -> None:
        start = self._at
        while self._text[self._at : self._at + 1] == b"*":
            self._at += 1
        rest = self._text[self._at :]
        whole = start == 0 or self._text[start - 1 : start] == b"/"
        if not (
            self._anchored
            and self._at - start > 1
            and whole
            and (not rest or rest.startswith((b"/", b"\\/")))
        ):
            self.pieces.append(_ANY)
            return
        self.leading.append(b"".join([*self.pieces, b".*"]))
        if rest.startswith(b"/"):
            # No directory at all is possible, too: a/**/b matches a/b.
            self._at += 1
            self._component = self._at
            self.pieces.append(b"(?:.*/)?")
        else:
            self.pieces.append(b".*")

    def _bracket(self) -> None:
        """A set of bytes, read as git's wildmatch.c does; it never matches a slash."""
        text, at = self._text, self._at + 1
        negated = text[at : at + 1] in (b"!", b"^")
        at += negated
        chosen: set[int] = set()
        previous: int | None = None
        first = True
        while first or text[at : at + 1] != b"]":
            first = False
            if text.startswith(b"[:", at):
                end = text.find(b"]", at + 2)
                if end < 0:
                    raise BadPattern("a bracket is not closed; write \\[ for the character")
                if end > at + 2 and text[end - 1 : end] == b":":
                    chosen |= _class_members(text[at + 2 : end - 1])
                    at, previous = end + 1, None
                    continue
                # Not closed by :], so the bracket stands for itself.
            if previous is not None and text[at : at + 1] == b"-" and text[at + 1 : at + 2] != b"]":
                low = previous
                high, at = self._member(at + 1)
                chosen |= set(range(low, high + 1))
                previous = None
                continue
            previous, at = self._member(at)
            chosen.add(previous)
        self._at = at + 1
        if negated:
            chosen = set(range(1, 256)) - chosen
        self.pieces.append(_set_expression(chosen - {ord("/")}))

    def _member(self, at: int) -> tuple[int, int]:
        """The byte at `at` of a bracket, a backslash taken off, and the position behind it."""
        if self._text[at : at + 1] == b"\\":
            at += 1
        if at >= len(self._text):
            raise BadPattern("a bracket is not closed; write \\[ for the character")
        return self._text[at], at + 1


def _class_members(name: bytes) -> set[int]:
    word = name.decode("latin-1")
    if word not in _CLASSES:
        raise BadPattern(f"there is no class [:{word}:]; known are {', '.join(_CLASSES)}")
    return set(_CLASSES[word].encode("ascii"))


def _set_expression(chosen: set[int]) -> bytes:
    """A character class of exactly these bytes."""
    if not chosen:
        return rb"[^\x00-\xff]"
    return b"[" + b"".join(b"\\x%02x" % each for each in sorted(chosen)) + b"]"


def _quoted(char: bytes) -> bytes:
    return char if char.isalnum() or char in (b"/", b"_") else b"\\x%02x" % char[0]
