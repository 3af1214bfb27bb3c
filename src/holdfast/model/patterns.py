"""Path filters: which entries of a tree are left out, by globs and by regular expressions.

A filter is compiled once and then asked about every entry of a tree, so an answer takes
about a microsecond. It works on paths as bytes, relative to what is captured, without a
slash at either end; it never looks at the file system. Invariants: nothing below an
excluded directory is included; matching takes time linear in the path, whatever the
patterns are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import re2

from holdfast.errors import BadPattern
from holdfast.model.glob import Glob, parse_glob

_REMEMBERED_DIRECTORIES = 10_000
"""How many answers about directories are kept, so that their entries need not ask again."""

_LONGEST_PATTERN = 10_000
_JOINED_PROGRAM_BYTES = 64 << 20
_SINGLE_PROGRAM_BYTES = 8 << 20
"""Memory that RE2 may use for one program; it gets slower, not wrong, when that is used up."""


class PathFilter:
    """What a capture or restore leaves out.

    `exclude` and `include` are lists of lines in the language of ``.gitignore``, of which
    the last that matches decides. With `include`, only what it matches, and everything
    below, is taken, together with the directories on the way; `exclude` wins over it.
    `whitelist` and `blacklist` are regular expressions of RE2, searched in the relative
    path of everything that is not a directory: with a whitelist only what one of them
    finds is taken, and what the blacklist finds is left out in any case.

    Patterns are text or bytes. Raises BadPattern that says which pattern is wrong and why.
    An instance may be used by many threads.
    """

    __slots__ = ("_blacklist", "_directories", "_exclude", "_include", "_passes_all", "_whitelist")

    def __init__(
        self,
        exclude: Sequence[str | bytes] = (),
        include: Sequence[str | bytes] = (),
        *,
        whitelist: Sequence[str | bytes] = (),
        blacklist: Sequence[str | bytes] = (),
    ) -> None:
        self._exclude = _GlobList(exclude, "exclude")
        self._include = _GlobList(include, "include")
        self._whitelist = _ExpressionList(whitelist, "whitelist")
        self._blacklist = _ExpressionList(blacklist, "blacklist")
        self._passes_all = not (
            self._exclude.is_set
            or self._include.is_set
            or self._whitelist.is_set
            or self._blacklist.is_set
        )
        self._directories: dict[bytes, _Standing] = {}

    @property
    def passes_all(self) -> bool:
        """Whether no pattern is set, so that nothing is ever left out."""
        return self._passes_all

    def excludes(self, relative_path: bytes, is_directory: bool) -> bool:
        """Whether the entry is left out, by itself or because a directory above it is.

        A directory for which this is true need not be read. The captured directory itself,
        the empty path, is never left out.
        """
        if self._passes_all or not relative_path:
            return False
        if is_directory:
            return self._standing(relative_path).excluded
        cut = relative_path.rfind(b"/")
        above = self._standing(relative_path[:cut]) if cut > 0 else _TOP
        if above.excluded:
            return True
        name = relative_path[cut + 1 :]
        if self._exclude.verdict(relative_path, name, is_directory=False):
            return True
        if self._include.is_set:
            verdict = self._include.verdict(relative_path, name, is_directory=False)
            if not (above.included if verdict is None else verdict):
                return True
        if self._blacklist.is_set and self._blacklist.finds(relative_path):
            return True
        return self._whitelist.is_set and not self._whitelist.finds(relative_path)

    def _standing(self, directory: bytes) -> _Standing:
        """What is known about a directory; asks about those above it where need be."""
        known = self._directories.get(directory)
        if known is not None:
            return known
        unknown = []
        path = directory
        while path and (known := self._directories.get(path)) is None:
            unknown.append(path)
            path = path[: max(path.rfind(b"/"), 0)]
        standing = known or _TOP
        if len(self._directories) >= _REMEMBERED_DIRECTORIES:
            self._directories.clear()
        for path in reversed(unknown):
            standing = self._judge(path, standing)
            self._directories[path] = standing
        return standing

    def _judge(self, directory: bytes, above: _Standing) -> _Standing:
        if above.excluded:
            return above
        name = directory[directory.rfind(b"/") + 1 :]
        if self._exclude.verdict(directory, name, is_directory=True):
            return _Standing(excluded=True, included=False)
        included = above.included
        if self._include.is_set:
            verdict = self._include.verdict(directory, name, is_directory=True)
            included = included if verdict is None else verdict
            if not included and not self._include.leads_on(directory):
                return _Standing(excluded=True, included=False)
        if self._blacklist.is_set and self._blacklist.finds_all_below(directory):
            return _Standing(excluded=True, included=False)
        return _Standing(excluded=False, included=included)


@dataclass(frozen=True, slots=True)
class _Standing:
    """A directory is left out, or is itself matched by the include list, or only on the way."""

    excluded: bool
    included: bool


_TOP = _Standing(excluded=False, included=False)


def read_pattern_lines(data: bytes) -> list[bytes]:
    """The lines of a file of patterns, such as a ``.gitignore``, for `PathFilter`.

    Ends of lines may be those of Windows; a byte order mark is taken off.
    """
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]


_Search = Callable[[bytes], bool]


def _as_bytes(pattern: str | bytes) -> bytes:
    return pattern.encode("utf-8", "surrogateescape") if isinstance(pattern, str) else pattern


def _bad(pattern: bytes, number: int, count: int, kind: str, reason: str) -> BadPattern:
    shown = pattern.decode("utf-8", "backslashreplace")
    return BadPattern(f"{kind} pattern {number} of {count}, {shown!r}, is not possible: {reason}")


def _compile(
    expression: bytes, *, utf8: bool = False, memory: int = _SINGLE_PROGRAM_BYTES
) -> _Search:
    """A function that tells whether RE2 finds the expression; raises ``re2.error``."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.UTF8 if utf8 else re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.never_capture = True
    options.max_mem = memory
    search = re2.compile(expression, options).search
    return lambda path: search(path) is not None


def _compile_together(expressions: Sequence[bytes], *, utf8: bool = False) -> list[_Search]:
    """As few programs as possible that together find what any of valid expressions finds."""
    # \Q without \E would swallow what follows it; and names of groups may not repeat.
    if len(expressions) > 1 and not any(rb"\Q" in each for each in expressions):
        with contextlib.suppress(re2.error):
            joined = b"|".join(b"(?:" + each + b")" for each in expressions)
            return [_compile(joined, utf8=utf8, memory=_JOINED_PROGRAM_BYTES)]
    return [_compile(each, utf8=utf8) for each in expressions]


def _compile_whole(expressions: Iterable[bytes]) -> _Search | None:
    joined = b"|".join(expressions)
    # In (?s) a dot is any byte; names may contain line ends.
    whole = rb"\A(?s:" + joined + rb")\z"
    return _compile(whole, memory=_JOINED_PROGRAM_BYTES) if joined else None


class _Matcher:
    """Whether any of some globs matches; names without wildcards need no expression."""

    __slots__ = ("_expression", "_names", "_paths", "_suffixes")

    def __init__(self, globs: Sequence[Glob]) -> None:
        names = [each for each in globs if not each.anchored]
        self._names = frozenset(each.literal for each in names if each.literal is not None)
        self._suffixes = tuple(each.suffix for each in names if each.suffix is not None)
        self._paths = frozenset(
            each.literal for each in globs if each.anchored and each.literal is not None
        )
        self._expression = _compile_whole(
            each.expression if each.anchored else b"(?:.*/)?" + each.expression
            for each in globs
            if each.literal is None and each.suffix is None
        )

    def matches(self, path: bytes, name: bytes) -> bool:
        return (
            name in self._names
            or path in self._paths
            or name.endswith(self._suffixes)
            or (self._expression is not None and self._expression(path))
        )


class _GlobList:
    """A list of globs of which the last that matches decides."""

    __slots__ = ("_leads_on", "_runs", "is_set")

    def __init__(self, patterns: Sequence[str | bytes], kind: str) -> None:
        globs = []
        for number, pattern in enumerate(patterns, 1):
            line = _as_bytes(pattern)
            try:
                if len(line) > _LONGEST_PATTERN:
                    raise BadPattern(f"it is longer than {_LONGEST_PATTERN} bytes")
                glob = parse_glob(line)
            except BadPattern as problem:
                raise _bad(line, number, len(patterns), kind, problem.message) from None
            if glob is not None:
                globs.append(glob)
        self.is_set = bool(globs)
        # Globs in a row that all exclude, or all re-include, can be asked at once: the
        # last row that has a match decides.
        runs: list[list[Glob]] = []
        for glob in globs:
            if runs and runs[-1][0].negated == glob.negated:
                runs[-1].append(glob)
            else:
                runs.append([glob])
        try:
            self._runs = [
                (
                    not run[0].negated,
                    _Matcher([each for each in run if not each.directories_only]),
                    _Matcher(run),
                )
                for run in reversed(runs)
            ]
            self._leads_on = _compile_whole(
                {leading for each in globs if not each.negated for leading in each.leading}
            )
        except re2.error as problem:
            raise BadPattern(f"the {kind} patterns are too many to compile: {problem}") from None

    def verdict(self, path: bytes, name: bytes, *, is_directory: bool) -> bool | None:
        """True where a pattern matches, False where a negated one does, None where none does."""
        for positive, of_files, of_directories in self._runs:
            if (of_directories if is_directory else of_files).matches(path, name):
                return positive
        return None

    def leads_on(self, directory: bytes) -> bool:
        """Whether something below the directory may match; may err towards yes."""
        return self._leads_on is not None and self._leads_on(directory)


class _ExpressionList:
    """Regular expressions that are searched in a relative path.

    Where a path is text in UTF-8 they see characters; in any other path every byte is one
    character of Latin-1, so that names in old encodings can be matched, too.
    """

    __slots__ = ("_below", "_bytewise", "_textwise", "is_set")

    def __init__(self, patterns: Sequence[str | bytes], kind: str) -> None:
        self._below: list[tuple[_Search, _Search]] = []
        self.is_set = bool(patterns)
        any_bytes: list[bytes] = []
        any_text: list[bytes] = []
        for number, pattern in enumerate(patterns, 1):
            expression = _as_bytes(pattern)
            # A pattern that is no UTF-8 itself can only mean bytes.
            is_text = _is_utf8(expression)
            try:
                if len(expression) > _LONGEST_PATTERN:
                    raise BadPattern(f"it is longer than {_LONGEST_PATTERN} bytes")
                bytewise = _compile(expression)
                textwise = _compile(expression, utf8=True) if is_text else bytewise
            except BadPattern as problem:
                raise _bad(expression, number, len(patterns), kind, problem.message) from None
            except re2.error as problem:
                raise _bad(expression, number, len(patterns), kind, _explained(problem)) from None
            any_bytes.append(expression)
            any_text += [expression] if is_text else []
            if not any(each in expression for each in (b"$", b"\\z", b"\\b", b"\\B")):
                self._below.append((bytewise, textwise))
        self._bytewise = _compile_together(any_bytes)
        self._textwise = _compile_together(any_text, utf8=True) + [
            _compile(each) for each in any_bytes if not _is_utf8(each)
        ]

    def finds(self, path: bytes) -> bool:
        programs = self._textwise if path.isascii() or _is_utf8(path) else self._bytewise
        return any(program(path) for program in programs)

    def finds_all_below(self, directory: bytes) -> bool:
        """Whether it is certain that every path below the directory is found.

        What is found in ``directory/`` is found in every path that begins so, unless the
        expression looks at what follows. Which of the two programs will be asked about
        such a path depends on the rest of it, so both must find it.
        """
        path = directory + b"/"
        return any(bytewise(path) and textwise(path) for bytewise, textwise in self._below)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _explained(problem: Exception) -> str:
    """What RE2 says, with a word about what people try most often."""
    said = problem.args[0] if problem.args else "it does not parse"
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    if "invalid perl operator" in text or "invalid escape sequence" in text:
        text += " (back-references and look-around are not supported: they have no linear time)"
    return text
