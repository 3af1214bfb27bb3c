"""The body of a submission, as the SDK sends it, and the task that it asks for.

What has no meaning here is kept and given back; what would change what the task does, and is
not built, is refused: a task that silently ran without it would be worse than none.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from holdfast.control.tasks import NewTask
from holdfast.errors import UsageError

_Word = Annotated[str, Field(max_length=200)]
_Pattern = Annotated[str | None, Field(max_length=10_000)]

_NOT_BUILT: Final = {
    "poolUuid": "pools",
    "jobUuid": "jobs",
    "advancedRanges": "instances by range; give instanceCount",
    "secretsAccessRights": "secrets",
    "forcedNetworkRules": "network rules",
    "targetedReservedMachineKey": "reserved machines",
    "targetedReservationName": "reserved machines",
}


class _Constant(BaseModel):
    key: Annotated[str, Field(max_length=200)]
    value: Annotated[str | None, Field(max_length=100_000)] = None


class _Prefix(BaseModel):
    prefix: str = ""


class _Filtering(BaseModel):
    prefixFiltering: _Prefix | None = None  # noqa: N815 - the client's names

    @property
    def prefix(self) -> str:
        return self.prefixFiltering.prefix if self.prefixFiltering else ""


class _Transformation(BaseModel):
    stripPrefix: _Prefix | None = None  # noqa: N815

    @property
    def prefix(self) -> str:
        return self.stripPrefix.prefix if self.stripPrefix else ""


class _Resource(BaseModel):
    bucketName: Annotated[str, Field(max_length=63)]  # noqa: N815
    filtering: _Filtering | None = None
    resourcesTransformation: _Transformation | None = None  # noqa: N815


class _Dependencies(BaseModel):
    dependsOn: list[str] | None = None  # noqa: N815
    advancedDependsOn: list[Any] | None = None  # noqa: N815


def _is_wish(value: object) -> bool:
    """Whether something is asked for; an object whose members are all empty asks for nothing."""
    if isinstance(value, dict):
        return any(_is_wish(each) for each in value.values())
    return bool(value)


class Submission(BaseModel):
    """A task to be made. Members that are not named here are kept as they came."""

    model_config = ConfigDict(extra="allow")

    name: _Word
    profile: _Word | None = None
    shortname: _Word | None = None
    constants: list[_Constant] = Field(default_factory=list, max_length=1000)
    resourceBuckets: list[Annotated[str, Field(max_length=63)]] | None = None  # noqa: N815
    advancedResourceBuckets: list[_Resource] | None = None  # noqa: N815
    resultBucket: Annotated[str | None, Field(max_length=63)] = None  # noqa: N815
    instanceCount: Annotated[int, Field(ge=1, le=10_000)] | None = None  # noqa: N815
    tags: list[_Word] | None = None
    labels: dict[str, str] | None = None
    snapshotWhitelist: _Pattern = None  # noqa: N815
    snapshotBlacklist: _Pattern = None  # noqa: N815
    resultsWhitelist: _Pattern = None  # noqa: N815
    resultsBlacklist: _Pattern = None  # noqa: N815
    uploadResultsOnCancellation: bool | None = None  # noqa: N815
    dependencies: _Dependencies | None = None

    def task(self) -> NewTask:
        """The task that is asked for; `UsageError` where something in it is not built."""
        extra = dict(self.model_extra or {})
        for name, what in _NOT_BUILT.items():
            if _is_wish(extra.get(name)):
                raise UsageError(f"This server does not have {what}; leave out {name}.")
        needs = self.dependencies
        if needs is not None and (needs.dependsOn or needs.advancedDependsOn):
            raise UsageError(
                "This server does not start tasks after others; leave out dependencies, and "
                "submit the task when the other one has ended."
            )
        if not self.profile:
            raise UsageError("A task needs a profile; list the profiles.")
        return NewTask(
            name=self.name,
            profile=self.profile,
            short_name=self.shortname or None,
            constants=tuple((each.key, each.value or "") for each in self.constants),
            inputs=self._inputs(),
            result_bucket=self.resultBucket or None,
            tags=tuple(self.tags or ()),
            labels=dict(self.labels or {}),
            instance_count=self.instanceCount or 1,
            snapshot_whitelist=self.snapshotWhitelist or None,
            snapshot_blacklist=self.snapshotBlacklist or None,
            results_whitelist=self.resultsWhitelist or None,
            results_blacklist=self.resultsBlacklist or None,
            results_on_cancel=bool(self.uploadResultsOnCancellation),
            extra={name: value for name, value in extra.items() if value is not None},
        )

    def _inputs(self) -> list[dict[str, str]]:
        whole = ({"bucket": name} for name in self.resourceBuckets or ())
        parts = (
            {
                "bucket": each.bucketName,
                "prefix": each.filtering.prefix if each.filtering else "",
                "strip_prefix": (
                    each.resourcesTransformation.prefix if each.resourcesTransformation else ""
                ),
            }
            for each in self.advancedResourceBuckets or ()
        )
        return [*whole, *parts]
