"""How much memory a command and everything it started use, shared pages counted once.

Reads ``/proc`` only. A page that several processes map counts in equal parts for each
(PSS), so that the sum over the processes is what the machine gives them together.
"""

from __future__ import annotations

import os


def session_processes(session: int) -> list[int]:
    """The processes of a session, which is named by the process that leads it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getsid(int(name)) == session:
                    found.append(int(name))
            except OSError:
                continue  # it has ended
    return found


def tree_memory_bytes(session: int) -> int:
    """The sum of the processes' proportional memory at this moment; 0 once all have ended."""
    total = 0
    for pid in session_processes(session):
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) << 10
                        break
        except (OSError, IndexError):
            continue
    return total
