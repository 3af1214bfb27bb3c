"""The pool of workers: traffic that is larger than what lies between two processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from holdfast.repo.pool import Pool

LONG = 600_000  # a socket between two processes holds some 200 kB


@dataclass(frozen=True)
class Echo:
    def __call__(self) -> Callable[[bytes], bytes]:
        return lambda task: task


@pytest.mark.timeout(30)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_long_tasks_and_long_answers_pass_one_another(workers: int) -> None:
    with Pool(workers, Echo()) as pool:
        for tag in range(6):
            pool.submit(tag, bytes(LONG + tag))
        seen: dict[int, int] = {}
        while pool.outstanding:
            for tag, answer in pool.results():
                seen[tag] = len(answer)
    assert seen == {tag: LONG + tag for tag in range(6)}
