"""Amounts of money: whole numbers of femto, 1e-15 of a currency unit, and how they are written.

Every amount that Holdfast computes is such a number, so that adding never rounds. In the
database an amount stands in two parts, micro (1e-6, whole, rounded down) and the rest in
femto (0 to 1e9 - 1), because one of 10,000 units would not fit 64 bits. `rounded` is the
one place where an amount loses digits: for a statement's totals, and in messages to people.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from holdfast.errors import UsageError

FEMTO_PER_UNIT: Final = 10**15
FEMTO_PER_MICRO: Final = 10**9
BYTES_PER_MB: Final = 1_000_000

LARGEST_RATE_FEMTO: Final = 10**16
"""For each MB: ten currency units. With the next limit it keeps SQL well within 64 bits."""

LARGEST_QUANTITY_BYTES: Final = 9 * 10**15

_LARGEST_UNITS: Final = 9 * 10**11
_MINOR_DIGITS: Final = {"USD": 2, "EUR": 2, "INR": 2}


def split(femto: int) -> tuple[int, int]:
    """An amount as micro and rest; the rest is never negative."""
    return divmod(femto, FEMTO_PER_MICRO)


def joined(micro: int, rest_femto: int) -> int:
    """An amount from its two parts; the rest may be a sum of rests."""
    return micro * FEMTO_PER_MICRO + rest_femto


def megabytes(quantity_bytes: int) -> int:
    """Whole MB of 1,000,000 bytes, rounded half up."""
    return (quantity_bytes + BYTES_PER_MB // 2) // BYTES_PER_MB


def femto_of(amount: Decimal) -> int:
    """An amount as femto; one with more than 15 decimals is refused, not rounded."""
    if not amount.is_finite() or abs(amount) > _LARGEST_UNITS:
        raise UsageError(f"{amount} is no amount of money; give up to {_LARGEST_UNITS:,} units.")
    numerator, denominator = amount.as_integer_ratio()
    femto, left = divmod(numerator * FEMTO_PER_UNIT, denominator)
    if left:
        raise UsageError(f"{amount} has more than 15 decimals; round it to 15.")
    return femto


def decimal_of(femto: int) -> Decimal:
    """An amount as an exact Decimal, whatever the context's precision."""
    return Decimal(exact(femto))


def exact(femto: int) -> str:
    """An amount with all its decimals and no zeros behind them, such as ``-0.0000315068``."""
    whole, part = divmod(abs(femto), FEMTO_PER_UNIT)
    decimals = f".{part:015d}".rstrip("0").rstrip(".")
    return f"{'-' if femto < 0 else ''}{whole}{decimals}"


def rounded(femto: int, currency: str) -> str:
    """An amount in the currency's smallest coin, half to the even one, such as ``-12.30``."""
    digits = _MINOR_DIGITS.get(currency, 2)
    coin = FEMTO_PER_UNIT // 10**digits
    coins, left = divmod(abs(femto), coin)
    if 2 * left > coin or (2 * left == coin and coins % 2):
        coins += 1
    whole, part = divmod(coins, 10**digits)
    return f"{'-' if femto < 0 and coins else ''}{whole}.{part:0{digits}d}"
