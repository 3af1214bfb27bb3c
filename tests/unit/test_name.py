from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.model.name import check_name, name_length, name_problem


@pytest.mark.parametrize("name", ["a", "x" * 50, "Before upgrade 2.1_final-3", ".", "0", "a  b"])
def test_valid_names(name: str) -> None:
    assert name_problem(name) is None
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "required"),
        ("x" * 51, "51 characters; at most 50"),
        ("a/b", "'/'"),
        ("a\n", r"'\\n'"),
        ("a\tb", r"'\\t'"),
        ("größe", "'ö'"),
        ("٣", "'٣'"),
        (" a", "begins or ends with a space"),
        ("a ", "begins or ends with a space"),
        ("   ", "begins or ends with a space"),
    ],
)
def test_invalid_names_say_what_to_do(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check_name(name)


def test_live_count() -> None:
    assert name_length("x" * 25) == "25/50"
