"""Amounts are exact, in one part or two, and are rounded in one place only (M1)."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.control import amounts
from holdfast.control.allocation import allocate
from holdfast.errors import UsageError

FEMTO = st.integers(-(10**27), 10**27)
bounded = settings(max_examples=200, derandomize=True, deadline=None)


@bounded
@given(FEMTO)
@example(-1)
def test_two_parts_hold_any_amount(femto: int) -> None:
    micro, rest = amounts.split(femto)
    assert 0 <= rest < 10**9
    assert amounts.joined(micro, rest) == femto
    assert Fraction(micro, 10**6) <= Fraction(femto, 10**15)


@bounded
@given(FEMTO)
@example(10**15)
@example(-5)
def test_exact_text_and_decimal_mean_the_amount(femto: int) -> None:
    assert Fraction(amounts.exact(femto)) == Fraction(femto, 10**15)
    assert Fraction(amounts.decimal_of(femto)) == Fraction(femto, 10**15)
    if abs(femto) <= 9 * 10**26:
        assert amounts.femto_of(amounts.decimal_of(femto)) == femto


@bounded
@given(FEMTO)
@example(5 * 10**12)
@example(15 * 10**12)
@example(-5 * 10**12)
@example(-4 * 10**12)
def test_rounding_is_half_to_the_even_coin(femto: int) -> None:
    with localcontext() as context:
        context.prec = 60
        wanted = amounts.decimal_of(femto).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
    assert amounts.rounded(femto, "EUR") == str(wanted if wanted else abs(wanted))


@pytest.mark.parametrize("amount", ["1e-16", "NaN", "Infinity", "1e12"])
def test_what_cannot_be_an_amount_is_refused(amount: str) -> None:
    with pytest.raises(UsageError):
        amounts.femto_of(Decimal(amount))


@pytest.mark.parametrize(
    ("quantity", "megabytes"),
    [(0, 0), (499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2), (2_500_000, 3)],
)
def test_megabytes_are_rounded_half_up(quantity: int, megabytes: int) -> None:
    assert amounts.megabytes(quantity) == megabytes


@bounded
@given(FEMTO, st.lists(st.integers(0, 10**30), min_size=1, max_size=20))
@example(-1, [1, 1])
@example(7, [0, 0, 0])
def test_parts_add_up_and_are_in_proportion(amount: int, weights: list[int]) -> None:
    parts = allocate(amount, weights)
    assert sum(parts) == amount
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        fair = Fraction(amount * weight, total) if total else Fraction(amount, len(weights))
        assert abs(part - fair) < 1
