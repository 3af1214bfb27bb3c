from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.model.caption import check_labels, check_text


def test_text_is_returned_unchanged() -> None:
    assert check_text("Vor dem Update: größer\n", "description") == "Vor dem Update: größer\n"


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 2001])
def test_text_that_a_database_cannot_keep_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="The description"):
        check_text(text, "description")


def test_labels_are_text_under_plain_keys() -> None:
    labels = {"team": "vision", "app.kubernetes.io/name": "", "cost center": "7"}
    assert check_labels(labels) == labels
    for wrong in ({"": "a"}, {'a"b': "c"}, {" a": "b"}, {"a": 1}, {"a": "\0"}, {"a" * 64: "b"}):
        with pytest.raises(UsageError):
            check_labels(wrong)
    with pytest.raises(UsageError, match="65 labels"):
        check_labels({f"k{number}": "" for number in range(65)})
