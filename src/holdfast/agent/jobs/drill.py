"""A drill: a snapshot is restored into a scratch directory, read back, compared, and removed.

Nothing of the host is read or written but the scratch, which is gone when the job has ended,
however it ended. A snapshot that did not come back as it was is a result of the job and no
failure of it: `passed` is false, and the findings say what.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from holdfast.agent.drill_scratch import scratch
from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.agent.jobs.restore import chosen_paths
from holdfast.errors import TargetFull
from holdfast.flows.drill import DrillRequest, DrillResult, drill
from holdfast.flows.locate import normal_path
from holdfast.model.progress import Progress


def run(context: JobContext) -> JobEnd:
    with (
        context.opened_repository() as repository,
        scratch(context.drill_directory, context.job_id, on_left=_said(context)) as place,
    ):
        request = DrillRequest(
            snapshot=context.text("manifest_id"),
            scratch=place.path,
            path=normal_path(os.fsencode(context.spec.get("captured_path") or "/")),
            paths=chosen_paths(context),
            workers=context.workers,
            wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
        )
        try:
            result = drill(repository, request, lambda each: context.report(each.step, each))
        except TargetFull as error:
            raise TargetFull(
                f"There is no room for this drill: {error.message}. Give drill_directory more "
                "room on this host, or drill a part of the snapshot with paths."
            ) from error
        finally:
            context.report("removing", Progress("removing"))
    return _end(context, result)


def _end(context: JobContext, result: DrillResult) -> JobEnd:
    came_back = "came back as it was" if result.passed else "DID NOT come back as it was"
    context.say(
        "info" if result.passed else "error",
        f"The snapshot {came_back}: {result.files} files in {result.directories} directories, "
        f"{result.restored_bytes} bytes restored in {result.restore_seconds:.1f} s, "
        f"{result.compared_bytes} bytes read back and found the same.",
    )
    document: dict[str, Any] = {
        "files": result.files,
        "directories": result.directories,
        "restored_bytes": result.restored_bytes,
        "compared_bytes": result.compared_bytes,
        "restore_milliseconds": round(result.restore_seconds * 1000),
        "passed": result.passed,
    }
    return JobEnd(document, limited(result.findings))


def _said(context: JobContext) -> Callable[[str], None]:
    return lambda reason: context.say("warning", f"{reason}. The agent tries again every hour.")
