from __future__ import annotations

from datetime import UTC, datetime

import pytest

from holdfast.errors import UsageError
from holdfast.model.grouping import GroupBy, GroupKey, group
from holdfast.model.retention import RestorePoint

NOW = datetime(2024, 6, 30, tzinfo=UTC)


def point(name: str, host: str, *paths: str, tags: tuple[str, ...] = ()) -> RestorePoint:
    return RestorePoint(name, NOW, tags=tags, host=host, paths=paths)


POINTS = [
    point("1", "b", "/y", "/x", tags=("t", "s")),
    point("2", "a", "/x", "/y"),
    point("3", "b", "/x", "/y", tags=("s", "t")),
    point("4", "b", "/x", tags=("s",)),
]


def ids(by: str) -> dict[str, str]:
    groups = group(POINTS, GroupBy.parse(by))
    return {str(key): "".join(each.id for each in points) for key, points in groups.items()}


def test_groups() -> None:
    assert ids("") == {"all": "1234"}
    assert ids("host") == {"host a": "2", "host b": "134"}
    assert ids("host,paths") == {
        "host a; paths /x, /y": "2",
        "host b; paths /x": "4",
        "host b; paths /x, /y": "13",
    }
    assert ids("tags") == {"all": "2", "tags s": "4", "tags s, t": "13"}


def test_the_default_is_host_and_paths() -> None:
    assert GroupBy() == GroupBy.parse("hosts, path")
    assert str(GroupBy()) == "host,paths"
    assert GroupBy.parse(str(GroupBy(tags=True))) == GroupBy(tags=True)
    assert list(group([], GroupBy())) == []
    assert list(group(POINTS[:1], GroupBy())) == [GroupKey("b", ("/x", "/y"))]


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot group by 'kind'"):
        GroupBy.parse("host,kind")
