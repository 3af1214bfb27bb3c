"""A small solver as people run them: heat in a plate, with fields, a log and a checkpoint.

    python -m holdfast.demo.solver STEPS [SECONDS_PER_STEP]

It works in the directory that HOLDFAST_JOB names. Explicit finite differences of the
two-dimensional heat equation, hot left edge, cold others; the scheme is stable for a ratio of
up to 1/4. It goes on from its checkpoint where there is one. Invariant: the state after n
steps does not depend on how often it was stopped, to the last bit.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 192
CHECKPOINT_STEPS = 10
_RATIO = 0.2
_HOT = 100.0

Field = NDArray[np.float64]


def main() -> None:
    """Solve so many steps; write `result.txt` with the digest of the last field."""
    steps = int(sys.argv[1])
    pause_seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    directory = Path(os.environ.get("HOLDFAST_JOB", "."))
    done, field = _begin(directory)
    sys.stdout.write(f"solving from step {done} to {steps}\n")
    with (directory / "solver.log").open("a") as log:
        while done < steps:
            field = _step(field)
            done += 1
            log.write(f"step {done} mean {field.mean():.9f}\n")
            log.flush()
            if done % CHECKPOINT_STEPS == 0:
                _keep(directory, done, field)
                sys.stdout.write(f"step {done}\n")
                sys.stdout.flush()
            time.sleep(pause_seconds)
    digest = hashlib.sha256(field.tobytes()).hexdigest()
    (directory / "result.txt").write_text(f"{digest}\n")
    sys.stdout.write(f"done: {digest}\n")


def _begin(directory: Path) -> tuple[int, Field]:
    checkpoint = directory / "checkpoint.npz"
    if checkpoint.exists():
        with np.load(checkpoint) as found:
            return int(found["done"]), found["field"]
    field = np.zeros((SIZE, SIZE))
    field[:, 0] = _HOT
    return 0, field


def _step(field: Field) -> Field:
    new = field.copy()
    inner = field[1:-1, 1:-1]
    neighbours = field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]
    new[1:-1, 1:-1] = inner + _RATIO * (neighbours - 4 * inner)
    return new


def _keep(directory: Path, done: int, field: Field) -> None:
    """Replace the checkpoint at once, and add the field to those that are looked at later."""
    beside = directory / "checkpoint.new.npz"
    np.savez(beside, done=np.int64(done), field=field)
    beside.replace(directory / "checkpoint.npz")
    fields = directory / "fields"
    fields.mkdir(exist_ok=True)
    np.save(fields / f"step-{done:06}.npy", field.astype(np.float32))


if __name__ == "__main__":
    main()
