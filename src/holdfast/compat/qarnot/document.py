"""A task as the SDK reads it.

Times end in ``Z`` and have six fractional digits at most: the client parses nothing else. A
member that the client would choke on when it is null is left out instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from holdfast.control.tables import Task, TaskInstance
from holdfast.model.task import InstanceState, TaskState

_ECHOED: Final = frozenset(
    {
        "autoDeleteOnCompletion",
        "completionTimeToLive",
        "defaultResourcesCacheTTLSec",
        "hardwareConstraints",
        "maxTimeQueueSeconds",
        "privileges",
        "projectUuid",
        "retrySettings",
        "schedulingType",
        "waitForPoolResourcesSynchronization",
    }
)
"""What a client sent and reads again, although it has no meaning here."""

_RUNNING: Final = frozenset({InstanceState.EXECUTING, InstanceState.UPLOADING})


def written(at: datetime) -> str:
    """A time as the client parses it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def task_document(task: Task, instances: Sequence[TaskInstance]) -> dict[str, Any]:
    """Everything that the client reads of a task."""
    document: dict[str, Any] = {
        name: value for name, value in task.extra.items() if name in _ECHOED
    }
    document |= {
        "uuid": task.id,
        "name": task.name,
        "profile": task.profile,
        "state": task.state,
        "creationDate": written(task.created_at),
        "stateTransitionTime": written(task.state_since),
        "instanceCount": task.instance_count,
        "constants": task.constants,
        "tags": task.tags,
        "labels": task.labels,
        "advancedResourceBuckets": [_resource(each) for each in task.inputs],
        "resultsCount": task.results_count,
        "uploadResultsOnCancellation": task.results_on_cancel,
        "runningInstanceCount": sum(each.state in _RUNNING for each in instances),
        "runningCoreCount": 0,
        "errors": [_error(each) for each in instances if each.error_message],
        "progress": 100.0 if task.state == TaskState.SUCCESS else 0.0,
        "snapshotInterval": task.periodic_seconds or 0,
        "status": None,
    }
    optional = {
        "shortname": task.short_name,
        "previousState": task.previous_state,
        "resultBucket": task.result_bucket,
        "snapshotWhitelist": task.snapshot_whitelist,
        "snapshotBlacklist": task.snapshot_blacklist,
        "resultsWhitelist": task.results_whitelist,
        "resultsBlacklist": task.results_blacklist,
        "endDate": None if task.ended_at is None else written(task.ended_at),
    }
    return document | {name: value for name, value in optional.items() if value is not None}


def _resource(found: dict[str, Any]) -> dict[str, Any]:
    prefix, strip = found.get("prefix"), found.get("strip_prefix")
    return {
        "bucketName": found["bucket"],
        "filtering": {"prefixFiltering": {"prefix": prefix}} if prefix else {},
        "resourcesTransformation": {"stripPrefix": {"prefix": strip}} if strip else {},
    }


def _error(instance: TaskInstance) -> dict[str, Any]:
    return {
        "code": instance.error_code or "error",
        "message": f"Instance {instance.number}: {instance.error_message}",
        "debug": "",
    }
