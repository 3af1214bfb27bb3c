"""The delivery of a job's end: told until it is acknowledged or refused.

Invariant: a report leaves the spool only when it counts, or when it can count no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from holdfast.agent.client import ControlClient
from holdfast.agent.pauses import Pauses
from holdfast.agent.spool import Report, Spool
from holdfast.errors import HoldfastError, NotSignedIn

_FIRST_SECONDS: Final = 2.0
_LONGEST_SECONDS: Final = 60.0

_log = structlog.get_logger("holdfast.agent")


def deliver(
    report: Report,
    client: ControlClient,
    spool: Spool,
    *,
    wait: Callable[[float], bool],
) -> HoldfastError | None:
    """Report an end until it is acknowledged or refused; then it leaves the spool.

    `wait` sleeps and returns True where there is no time for another attempt; then, and
    where the host's credential is refused, the report stays for the next start of the agent.
    Returns the error for which it stayed.
    """
    pauses = Pauses(_FIRST_SECONDS, _LONGEST_SECONDS)
    while True:
        try:
            client.finish(report.job_id, report.body)
        except NotSignedIn as error:
            return error
        except HoldfastError as error:
            if not error.retryable:
                _log.warning("end of job refused", job_id=report.job_id, reason=error.message)
                break
            _log.warning("end of job not heard", job_id=report.job_id, reason=error.message)
            if wait(pauses.next(getattr(error, "retry_after_seconds", 0.0))):
                return error
        else:
            break
    spool.remove(report)
    return None
