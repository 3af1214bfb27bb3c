"""Splitting one amount among several that caused it together, to the last femto.

The parts are whole numbers, in proportion to the weights, and their sum is the amount.
"""

from __future__ import annotations

from collections.abc import Sequence


def allocate(amount: int, weights: Sequence[int]) -> list[int]:
    """Parts of `amount` (of any sign) by weights from 0 up; equal ones if all are 0.

    What whole numbers leave over goes to the largest remainders, the first of equals first.
    """
    if not weights:
        raise ValueError("an amount cannot be split among nobody")
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    parts, remainders = [], []
    for number, weight in enumerate(weights):
        part, remainder = divmod(amount * weight, total)
        parts.append(part)
        remainders.append((-remainder, number))
    for _, number in sorted(remainders)[: amount - sum(parts)]:
        parts[number] += 1
    return parts
