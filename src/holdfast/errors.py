"""One tree of errors: every failure that Holdfast reports is one of these.

    HoldfastError
    ├── UsageError                  the caller asked for something that cannot be meant
    │   ├── BadPattern              a filter that does not parse
    │   ├── PartTooSmall            a part of an upload that only its last one may be
    │   ├── InvalidPart             an upload is completed with a part that it has not
    │   └── PathRefused             a path that cannot be protected or restored to
    │       ├── PathMalformed       not a path at all: empty, a zero byte, too long, not UTF-8
    │       ├── PathNotAbsolute
    │       ├── PathEscapesRoot     it climbs with '..'
    │       └── PathOutsideRoots    it lies in none of the host's guarded roots
    ├── NotFound                    a snapshot, path or key that does not exist
    │   ├── ObjectNotFound          a store has no such object
    │   ├── NoSuchBucket
    │   ├── NoSuchKey               a bucket has no such object
    │   └── NoSuchUpload            a multipart upload that was completed, aborted or never begun
    ├── Conflict                    somebody else holds what is needed
    │   ├── RepositoryLocked
    │   ├── ObjectExists            a create found the name taken
    │   ├── NameTaken               a name that must be unique is not
    │   ├── InUse                   it is held, or something depends on it
    │   │   └── BucketNotEmpty
    │   ├── NotReady                it is not in a state that allows this
    │   ├── StaleAttempt            a job's lease went to a later attempt
    │   ├── KeyReused               an idempotency key came back with another request
    │   └── Changed                 it is no longer what the caller saw (If-Match)
    ├── NotSignedIn                 no credential, or not one that is known
    │   └── GatewayNotSignedIn      it was the gateway's own, not the one it asks about
    ├── Forbidden                   a known caller without the right
    ├── ProfileIncomplete           billing needs more of the account's profile
    ├── CreditExhausted             no credit is left for something new
    ├── QuotaExceeded               a limit of the account is reached
    ├── TooManyRequests             slow down; try again after a while
    ├── DatabaseUnavailable         may pass: the control plane's database is away
    ├── ServerUnavailable           may pass: a Holdfast server did not answer
    ├── WrongMasterKey              the master key file does not fit the database
    ├── StoreError                  the place where objects lie misbehaves
    │   ├── StoreUnavailable        may pass: time-outs, 5xx, lost connections
    │   ├── StoreDenied             credentials, permissions, object lock, read-only
    │   └── StoreFull
    ├── RepositoryError
    │   ├── NotARepository
    │   ├── RepositoryExists
    │   ├── WrongPassword
    │   ├── NewerVersion            written by a format that this version cannot read
    │   └── Damaged                 bytes are not what their name or MAC says
    ├── SourceError                 what was to be captured cannot be
    │   └── SourceVanished
    ├── TargetError                 where to restore to is not usable
    │   ├── TargetNotEmpty
    │   ├── TargetFull
    │   └── PathEscapes
    ├── RunnerError                 a task's computation cannot be run, or not be asked about
    │   ├── StartFailed
    │   ├── ImageMissing
    │   ├── NotFreezable            it cannot be held still
    │   ├── RunnerUnavailable       may pass: podman or Slurm does not answer
    │   └── TaskFailed              it ran, or was to run, and did not succeed
    ├── WorkerLost                  one of our own processes died
    └── Interrupted                 a person or a supervisor said stop

The class carries what a program needs (`code`, `exit_status`, `http_status`,
`retryable`); the message carries what a person needs: what happened, and what to do.
This module does no I/O and imports nothing of Holdfast.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Root of all errors that are reported to people; never raised itself."""

    code = "error"
    exit_status = 1
    http_status = 500
    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_dict(self) -> dict[str, object]:
        """The document printed on stderr under --json, and used in problem+json."""
        return {"error": self.code, "message": self.message, "retryable": self.retryable}


class UsageError(HoldfastError):
    """The request contradicts itself or names something that cannot be meant."""

    code = "usage"
    exit_status = 2
    http_status = 400


class BadPattern(UsageError):
    """An include, exclude or regular expression does not parse."""

    code = "bad_pattern"


class PartTooSmall(UsageError):
    """A part of a multipart upload is below the least size, and is not the last one."""

    code = "part_too_small"


class InvalidPart(UsageError):
    """A multipart upload is completed with a part that it has not, or not so, or out of order."""

    code = "invalid_part"


class PathRefused(UsageError):
    """A path of a host cannot be protected, or not be restored to."""

    code = "path_refused"


class PathMalformed(PathRefused):
    """It is empty, too long, or holds what no path can."""

    code = "path_malformed"


class PathNotAbsolute(PathRefused):
    """It does not begin at the top of the file system."""

    code = "path_not_absolute"


class PathEscapesRoot(PathRefused):
    """It climbs with '..', so where it leads cannot be told from its text."""

    code = "path_escapes_root"


class PathOutsideRoots(PathRefused):
    """It is in none of the places that the host lets be protected."""

    code = "path_outside_roots"


class NotFound(HoldfastError):
    """A snapshot, path, key or object with that name does not exist."""

    code = "not_found"
    exit_status = 4
    http_status = 404


class ObjectNotFound(NotFound):
    """The store holds no object under that key."""

    code = "object_not_found"


class NoSuchBucket(NotFound):
    """The account has no bucket of that name."""

    code = "no_such_bucket"


class NoSuchKey(NotFound):
    """The bucket has no object under that key."""

    code = "no_such_key"


class NoSuchUpload(NotFound):
    """There is no such multipart upload, or no longer."""

    code = "no_such_upload"


class Conflict(HoldfastError):
    """Somebody else holds what is needed; the same request may succeed later."""

    code = "conflict"
    exit_status = 11
    http_status = 409


class RepositoryLocked(Conflict):
    """Another process holds a lock that excludes this operation."""

    code = "repository_locked"
    retryable = True


class ObjectExists(Conflict):
    """A create found an object under that key already."""

    code = "object_exists"


class NameTaken(Conflict):
    """Another one of the account carries this name."""

    code = "name_taken"


class InUse(Conflict):
    """It is under a hold, or something that is still there depends on it."""

    code = "in_use"


class BucketNotEmpty(InUse):
    """A bucket that holds something cannot be removed."""

    code = "bucket_not_empty"


class NotReady(Conflict):
    """It is not in a state in which this can be done."""

    code = "not_ready"


class StaleAttempt(Conflict):
    """The job's lease has gone to a later attempt; nothing of this one counts any more."""

    code = "stale_attempt"


class KeyReused(Conflict):
    """An idempotency key came back with a different request."""

    code = "idempotency_key_reused"
    http_status = 422


class Changed(Conflict):
    """It was changed since the caller read it; read it again, then decide."""

    code = "changed"
    http_status = 412


class NotSignedIn(HoldfastError):
    """There is no credential, or it is unknown, expired or revoked."""

    code = "not_signed_in"
    exit_status = 20
    http_status = 401


class GatewayNotSignedIn(NotSignedIn):
    """A gateway's own credential is none; of the one that it asks about nothing was said."""

    code = "gateway_not_signed_in"


class Forbidden(HoldfastError):
    """The caller is known and lacks the right."""

    code = "forbidden"
    exit_status = 21
    http_status = 403


class ProfileIncomplete(HoldfastError):
    """The account's profile lacks what billing needs."""

    code = "profile_incomplete"
    exit_status = 22
    http_status = 422


class CreditExhausted(HoldfastError):
    """The account has no credit left; what is stored is kept, nothing new is taken."""

    code = "credit_exhausted"
    exit_status = 22
    http_status = 402


class QuotaExceeded(HoldfastError):
    """A limit of the account is reached."""

    code = "quota_exceeded"
    exit_status = 22
    http_status = 422


class TooManyRequests(HoldfastError):
    """More requests than allowed; wait `retry_after_seconds`, then go on."""

    code = "too_many_requests"
    exit_status = 23
    http_status = 429
    retryable = True

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DatabaseUnavailable(HoldfastError):
    """The control plane's database does not answer."""

    code = "database_unavailable"
    exit_status = 24
    http_status = 503
    retryable = True


class ServerUnavailable(HoldfastError):
    """A Holdfast server did not answer, or answered that it cannot now."""

    code = "server_unavailable"
    exit_status = 24
    http_status = 503
    retryable = True


class WrongMasterKey(HoldfastError):
    """A secret in the database opens with none of the master keys that are there."""

    code = "wrong_master_key"
    exit_status = 12


class StoreError(HoldfastError):
    """The place where objects lie answered with a failure that is not one of the below."""

    code = "store_error"
    exit_status = 15
    http_status = 502


class StoreUnavailable(StoreError):
    """The store did not answer, or answered that it cannot now; a retry may help."""

    code = "store_unavailable"
    http_status = 503
    retryable = True


class StoreDenied(StoreError):
    """The store refuses: credentials, permissions, a read-only medium or an object lock."""

    code = "store_denied"
    exit_status = 14
    http_status = 403


class StoreFull(StoreError):
    """The store has no room left."""

    code = "store_full"
    exit_status = 13
    http_status = 507


class RepositoryError(HoldfastError):
    """The repository cannot be used as asked."""

    code = "repository_error"
    exit_status = 16


class NotARepository(RepositoryError):
    """There is no repository at that location."""

    code = "not_a_repository"
    exit_status = 10
    http_status = 404


class RepositoryExists(RepositoryError):
    """There is a repository at that location already."""

    code = "repository_exists"
    exit_status = 11
    http_status = 409


class WrongPassword(RepositoryError):
    """No key of the repository opens with that password."""

    code = "wrong_password"
    exit_status = 12
    http_status = 401


class NewerVersion(RepositoryError):
    """The repository's format is newer than this version of Holdfast knows."""

    code = "newer_version"
    exit_status = 17


class Damaged(RepositoryError):
    """Stored bytes are not what their name or authentication code says."""

    code = "damaged"
    exit_status = 16


class SourceError(HoldfastError):
    """What was to be captured cannot be captured."""

    code = "source_error"
    exit_status = 18
    http_status = 422


class SourceVanished(SourceError):
    """The thing to capture is not there, or went away as a whole while it was read."""

    code = "source_vanished"


class TargetError(HoldfastError):
    """The place to restore to cannot be used."""

    code = "target_error"
    exit_status = 19
    http_status = 422


class TargetNotEmpty(TargetError):
    """The directory to restore into holds something already."""

    code = "target_not_empty"


class TargetFull(TargetError):
    """The place to restore to has not enough room."""

    code = "target_full"


class PathEscapes(TargetError):
    """A path would lead outside the place that it must stay in."""

    code = "path_escapes"


class RunnerError(HoldfastError):
    """What runs a task's command cannot do what it was asked."""

    code = "runner_error"
    exit_status = 6


class StartFailed(RunnerError):
    """The command of a task could not be started; nothing runs."""

    code = "start_failed"
    http_status = 422


class ImageMissing(RunnerError):
    """The container image of a task is not there, or is not the one that was asked for."""

    code = "image_missing"
    http_status = 422


class NotFreezable(RunnerError):
    """A computation cannot be held still, so it can only be read while it goes on."""

    code = "not_freezable"
    http_status = 409


class RunnerUnavailable(RunnerError):
    """What runs the computation does not answer now; the computation may well go on."""

    code = "runner_unavailable"
    http_status = 503
    retryable = True


class TaskFailed(RunnerError):
    """A task ended without success: its command failed, or could not be run to its end."""

    code = "task_failed"
    http_status = 409


class WorkerLost(HoldfastError):
    """A worker process died, killed from outside or for want of memory."""

    code = "worker_lost"
    exit_status = 5
    retryable = True


class Interrupted(HoldfastError):
    """A person or a supervisor asked to stop; nothing acknowledged was lost."""

    code = "interrupted"
    exit_status = 130
    http_status = 499
