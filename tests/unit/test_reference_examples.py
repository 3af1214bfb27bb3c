"""The examples of docs/reference/filters.md and retention.md are true."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import BadPattern
from holdfast.model.patterns import PathFilter
from holdfast.model.retention import RestorePoint, RetentionPolicy, decide
from holdfast.model.span import CalendarSpan

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
Rows = list[list[str]]


def tables(document: str) -> list[tuple[str, list[str], Rows]]:
    """Every table of a document: the last heading above it, its header, its rows."""
    found: list[tuple[str, list[str], Rows]] = []
    heading = ""
    inside = False
    for line in (REFERENCE / document).read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not inside:
            found.append((heading, cells, []))
            inside = True
        elif not set(line) <= set("|-"):
            found[-1][2].append(cells)
    return found


def codes(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def rows_under(*header: str) -> Rows:
    rows = [row for _, head, rows in tables("filters.md") if head == list(header) for row in rows]
    assert rows, f"filters.md has no table of {header}"
    return rows


def check(filter_: PathFilter, row: list[str]) -> None:
    (path,) = codes(row[-2])
    left_out = filter_.excludes(path.rstrip("/").encode(), path.endswith("/"))
    assert row[-1] == ("left out" if left_out else "kept"), row


def test_exclude_and_include_examples() -> None:
    for row in rows_under("Exclude", "Path", "Result"):
        check(PathFilter(exclude=codes(row[0])), row)
    for row in rows_under("Include", "Path", "Result"):
        check(PathFilter(include=codes(row[0])), row)


def test_expression_examples() -> None:
    for row in rows_under("Whitelist", "Blacklist", "Path", "Result"):
        check(PathFilter(whitelist=codes(row[0]), blacklist=codes(row[1])), row)


def test_refused_examples() -> None:
    for row in rows_under("Pattern", "Reason"):
        with pytest.raises(BadPattern, match=re.escape(row[1])):
            PathFilter(exclude=codes(row[0]))
    for row in rows_under("Expression", "Reason"):
        with pytest.raises(BadPattern, match=re.escape(row[1])):
            PathFilter(whitelist=codes(row[0]))


def policy(heading: str) -> RetentionPolicy:
    rules: dict[str, Any] = {}
    for rule in heading.split(", ") if heading != "no rule" else ():
        name, value = rule.split()
        if name == "keep_tags":
            rules[name] = ((value,),)
        elif name.startswith("keep_within"):
            rules[name] = CalendarSpan.parse(value)
        else:
            rules[name] = int(value)
    return RetentionPolicy(**rules)


EXAMPLES = [each for each in tables("retention.md") if each[1] == ["Point", "Decision", "Reasons"]]


@pytest.mark.parametrize("example", EXAMPLES, ids=[each[0] for each in EXAMPLES])
def test_retention_examples(example: tuple[str, list[str], Rows]) -> None:
    heading, _, rows = example
    points = []
    for row in rows:
        found = re.fullmatch(r"([0-9: -]+?)(?: \((.*)\))?", row[0])
        assert found is not None, row
        marks = found[2].split(", ") if found[2] else []
        points.append(
            RestorePoint(
                row[0],
                datetime.fromisoformat(found[1]).replace(tzinfo=UTC),
                tuple(mark for mark in marks if mark != "held"),
                held="held" in marks,
            )
        )
    decisions = decide(policy(heading), points, now=datetime(2024, 7, 1, tzinfo=UTC))
    said = [
        [each.point.id, "keep" if each.keep else "remove", ", ".join(each.reasons)]
        for each in decisions
    ]
    assert said == rows


def test_every_rule_is_documented_and_has_examples() -> None:
    text = (REFERENCE / "retention.md").read_text("utf-8")
    for name in RetentionPolicy.__dataclass_fields__:
        assert f"`{name}`" in text or name.startswith("keep_within_"), name
    assert len(EXAMPLES) >= 7
