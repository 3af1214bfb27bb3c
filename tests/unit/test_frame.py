"""The frame holds: what documents, settings and scripts say of one another is true.

Reads files of the checkout only; runs nothing but ``./dev help``.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog/**/*.md")]
)

_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Promises that mean nothing, names of issues, and paths of somebody's own machine.
_UNWANTED = re.compile(
    r"\b(seamless\w*|effortless\w*|blazing\w*|lightning[- ]fast|cutting[- ]edge|world[- ]class"
    r"|military[- ]grade|bank[- ]grade|revolutionary|game[- ]chang\w+|enterprise[- ]grade"
    r"|just works|simply|TODO|FIXME|lorem ipsum)\b"
    r"|\bissue \d+|(?<![\w`&])#\d+\b|/home/(?!ana\b)|/Users/",
    re.IGNORECASE,
)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0] for text in requirements}


def rows(section: str) -> set[str]:
    """The packages of the table below a heading of dependencies.md."""
    text = (ROOT / "docs/design/dependencies.md").read_text()
    body = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", body, re.MULTILINE))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    text = _FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def dead_links(document: Path) -> list[str]:
    dead = []
    for inline, reference in _LINK.findall(_FENCE.sub("", document.read_text())):
        target = inline or reference
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = document if not name else (document.parent / name).resolve()
        if not other.exists() or (anchor and anchor not in anchors(other)):
            dead.append(target)
    return dead


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\n./dev demo" in readme
    assert "\n./dev test" in readme


def test_dev_describes_every_command_it_knows() -> None:
    script = (ROOT / "dev").read_text()
    dispatch = script.split("case $command in", 1)[1]
    known = set(re.findall(r"^(\w+)\)", dispatch, re.MULTILINE))
    assert known >= {"demo", "test", "lint", "bench"}
    done = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True)
    described = set(re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE))
    assert known - described == set()


def test_dev_refuses_an_unknown_command() -> None:
    done = subprocess.run([ROOT / "dev", "dmeo"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'dmeo'" in done.stderr
    assert done.stdout == ""


def test_ci_runs_the_same_tests_as_people() -> None:
    assert "./dev test" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert os.access(ROOT / "dev", os.X_OK)


def test_every_runtime_dependency_has_a_row(project: dict[str, dict[str, list[str]]]) -> None:
    assert rows("At run time") == names(project["project"]["dependencies"])


def test_every_development_dependency_has_a_row(
    project: dict[str, dict[str, list[str]]],
) -> None:
    assert rows("For development") == names(project["dependency-groups"]["dev"])


def test_links_are_checked_at_all(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Here I am\n[a](page.md#here-i-am) [b](gone.md) [c](#nowhere)\n")
    assert dead_links(page) == ["gone.md", "#nowhere"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    assert dead_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words(document: Path) -> None:
    found = [match.group() for match in _UNWANTED.finditer(document.read_text())]
    assert found == []


def test_every_page_is_listed_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = {
        str(path.relative_to(ROOT / "docs"))
        for path in (ROOT / "docs").glob("**/*.md")
        if path.name != "index.md" and path.parent.name != "reference"
    }
    assert {page for page in pages if f"({page})" not in index} == set()


def test_changelog_fragments_have_the_form() -> None:
    fragments = list((ROOT / "changelog/unreleased").glob("*.md"))
    assert fragments
    for fragment in fragments:
        title, blank, *body = fragment.read_text().splitlines()
        assert re.match(r"# (Added|Changed|Fixed|Removed): \S", title), fragment.name
        assert blank == "", fragment.name
        assert any(body), fragment.name
