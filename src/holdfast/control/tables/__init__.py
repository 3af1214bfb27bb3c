"""The tables of the control plane, one noun in each file; all share one `Base`."""

from holdfast.control.tables.account import Account, Member, SignIn, SignInFailure, Token, User
from holdfast.control.tables.base import Base
from holdfast.control.tables.buckets import (
    Body,
    Bucket,
    StoredObject,
    Upload,
    UploadPart,
    View,
)
from holdfast.control.tables.catalog import Drill, Hold, Restore, Schedule, Snapshot, Source
from holdfast.control.tables.fleet import Host, Region, Repository
from holdfast.control.tables.money import LedgerEntry, Meter, Price
from holdfast.control.tables.record import (
    AuditEntry,
    Delivery,
    Event,
    IdempotencyKey,
    Webhook,
)
from holdfast.control.tables.tasks import (
    Task,
    TaskInstance,
    TaskOutput,
    TaskOutputRead,
    TaskPreview,
    TaskSnapshot,
)
from holdfast.control.tables.work import Job, JobLine, Leadership

__all__ = [
    "Account",
    "AuditEntry",
    "Base",
    "Body",
    "Bucket",
    "Delivery",
    "Drill",
    "Event",
    "Hold",
    "Host",
    "IdempotencyKey",
    "Job",
    "JobLine",
    "Leadership",
    "LedgerEntry",
    "Member",
    "Meter",
    "Price",
    "Region",
    "Repository",
    "Restore",
    "Schedule",
    "SignIn",
    "SignInFailure",
    "Snapshot",
    "Source",
    "StoredObject",
    "Task",
    "TaskInstance",
    "TaskOutput",
    "TaskOutputRead",
    "TaskPreview",
    "TaskSnapshot",
    "Token",
    "Upload",
    "UploadPart",
    "User",
    "View",
    "Webhook",
]
