"""What a user of Qarnot's SDK writes, one function for each part of it.

Run by the interpreter of an environment that has PyPI ``qarnot``, not by ours, with the SDK's
own variables in its environment: ``python qarnot_user.py PART DIRECTORY``. It fails loudly.
"""

import datetime
import hashlib
import os
import sys
import time
from pathlib import Path

import boto3
import qarnot
from botocore.config import Config
from botocore.exceptions import ClientError
from qarnot.advanced_bucket import BucketPrefixFiltering
from qarnot.exceptions import (
    BucketStorageUnavailableException,
    MissingBucketException,
    MissingProfileException,
    MissingTaskException,
    MissingTaskInstanceException,
    NotEnoughCreditsException,
    QarnotGenericException,
    UnauthorizedException,
)

ENDED = ("Success", "Failure", "Cancelled")
STEADY = (
    "i=0; while [ ! -e stop ]; do i=$((i+1)); echo line $i; echo $i > counter.txt; "
    "echo log $i >> run.log; sleep 0.2; done; echo done > result.txt"
)


def connect():
    return qarnot.Connection(client_token=os.environ["QARNOT_CLIENT_TOKEN"])


def fails(kind, act, *arguments, **named):
    """The error of that kind which the call raises."""
    try:
        act(*arguments, **named)
    except kind as error:
        return error
    raise AssertionError(f"{act} did not raise {kind}")


def gone(connection, name):
    """The bucket is not there: the SDK asks with HEAD, whose answer names no code."""
    error = fails(ClientError, connection.retrieve_bucket, name)
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404, error
    bucket = qarnot.bucket.Bucket(connection, name, create=False)
    fails(MissingBucketException, bucket.add_string, "text", "key")


def until(holds, what, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.3)


def reaches(task, *states):
    def look():
        task.update(True)
        return task.state if task.state in states else None

    return until(look, f"{task.name} is one of {states}, it is {task.state}: {task.errors}")


def new_task(connection, name, command, instances=1, **constants):
    task = connection.create_task(name, "batch", instances)
    task.constants["COMMAND"] = command
    task.constants.update(constants)
    return task


def files_of(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file()
    }


def part_connection(directory):
    """Settings by argument, by environment and by file; profiles; the user; wrong tokens."""
    connection = connect()
    assert connection.user_info.email, "the access key of the buckets"
    assert "batch" in connection.profiles_names()
    profile = connection.retrieve_profile("docker-batch")
    assert {"DOCKER_REPO", "DOCKER_TAG", "DOCKER_CMD"} <= {each for each, _ in profile.constants}
    assert {each.name for each in connection.profiles()} >= {"batch", "docker-batch"}
    fails(MissingProfileException, connection.retrieve_profile, "no-such-profile")

    file = directory / "qarnot.conf"
    file.write_text(
        f"[cluster]\nurl={os.environ['QARNOT_CLUSTER_URL']}\n"
        f"[client]\ntoken={os.environ['QARNOT_CLIENT_TOKEN']}\n"
    )
    assert qarnot.Connection(str(file)).user_info.email == connection.user_info.email
    versioned = qarnot.Connection(
        cluster_url=os.environ["QARNOT_CLUSTER_URL"] + "/v1",
        client_token=os.environ["QARNOT_CLIENT_TOKEN"],
    )
    assert versioned.profiles_names() == connection.profiles_names()
    fails(UnauthorizedException, qarnot.Connection, client_token="hf_" + "x" * 43)
    fails(UnauthorizedException, qarnot.Connection, client_token="no token at all")
    fails(MissingTaskException, connection.retrieve_task, "00000000-0000-4000-8000-000000000000")


def part_buckets(directory):
    """Buckets: files, strings, directories, synchronisation, parts, copies, removal."""
    connection = connect()
    gone(connection, "never-made")
    bucket = connection.create_bucket("qarnot-files")
    again = connection.create_bucket("qarnot-files")
    assert again.uuid == bucket.uuid
    assert "qarnot-files" in [each.uuid for each in connection.buckets()]
    assert connection.retrieve_bucket("qarnot-files").uuid == "qarnot-files"

    local = directory / "tree"
    (local / "deep" / "er").mkdir(parents=True)
    (local / "one.txt").write_text("one\n")
    (local / "deep" / "two.bin").write_bytes(os.urandom(100_000))
    (local / "deep" / "er" / "with space and ünïcode+%2B.txt").write_text("odd\n")
    (local / "empty").write_bytes(b"")
    large = directory / "large.bin"
    large.write_bytes(os.urandom(20 * 1024 * 1024 + 17))

    bucket.add_string("a text", "texts/a.txt")
    bucket.add_file(str(local / "one.txt"), "one.txt")
    bucket.add_file(str(large), "large.bin")
    bucket.add_directory(str(local), "all/")
    names = {each.key for each in bucket.list_files()}
    assert {"texts/a.txt", "one.txt", "large.bin", "all/empty", "all/deep/two.bin"} <= names, names
    tags = {each.key: each.e_tag.strip('"') for each in bucket.list_files()}
    assert tags["one.txt"] == hashlib.md5(b"one\n").hexdigest()
    parts = [
        hashlib.md5(large.read_bytes()[at : at + (8 << 20)]).digest()
        for at in range(0, large.stat().st_size, 8 << 20)
    ]
    assert tags["large.bin"] == f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    assert {each.key for each in bucket.directory("all/deep/")} >= {"all/deep/two.bin"}

    bucket.copy_file("one.txt", "copied/one.txt")
    got = bucket.get_file("copied/one.txt", str(directory / "copied.txt"))
    assert Path(got).read_text() == "one\n"
    assert Path(bucket.get_file("large.bin", str(directory / "back.bin"))).read_bytes() == (
        large.read_bytes()
    )
    bucket.delete_file("copied/one.txt")
    assert "copied/one.txt" not in {each.key for each in bucket.list_files()}

    mirror = connection.create_bucket("qarnot-mirror")
    mirror.sync_directory(str(local))
    (local / "one.txt").rename(local / "renamed.txt")
    (local / "empty").unlink()
    (local / "deep" / "two.bin").write_bytes(b"changed")
    mirror.sync_directory(str(local))
    kept = {each.key for each in mirror.list_files()}
    assert kept == set(files_of(local)), kept
    mirror.sync_files({"only/this.txt": str(local / "renamed.txt")})
    assert {each.key for each in mirror.list_files()} == {"only/this.txt"}
    home = directory / "home"
    home.mkdir()
    bucket.get_all_files(str(home))
    assert files_of(home)["large.bin"] == large.read_bytes()
    assert files_of(home)["all/deep/er/with space and ünïcode+%2B.txt"] == b"odd\n"
    for each in (bucket, mirror):
        each.delete()
        gone(connection, each.uuid)


def part_task(directory):
    """Submission, input and result buckets, states, output whole and fresh, results, deletion."""
    connection = connect()
    inputs = connection.create_bucket("task-inputs")
    inputs.add_string("3 4\n", "data/numbers.txt")
    inputs.add_string("unused\n", "other/unused.txt")
    results = connection.create_bucket("task-results")
    task = new_task(
        connection,
        "sums",
        "read a b < numbers.txt; echo sum $((a+b)) $WORD; echo to-stderr >&2; "
        "mkdir -p out; echo $((a+b)) > out/sum.txt; echo x > dropped.tmp; ls",
        WORD="hold fast",
    )
    task.resources = [
        inputs.with_filtering(BucketPrefixFiltering("data/")).with_resource_transformation(
            qarnot.advanced_bucket.PrefixResourcesTransformation("data/")
        )
    ]
    task.results = results
    task.tags = ["solver", "first"]
    task.labels = {"team": "physics"}
    task.results_blacklist = r"\.tmp$"
    assert task.state == "UnSubmitted"
    task.submit()
    assert isinstance(task.creation_date, datetime.datetime)
    assert reaches(task, *ENDED) == "Success", task.errors
    assert task.wait(timeout=5)
    assert "sum 7 hold fast\n" in task.stdout()
    assert task.stdout(0) == task.stdout()
    assert task.stderr() == "to-stderr\n"
    assert task.fresh_stderr() == "to-stderr\n"
    assert task.fresh_stderr() == ""
    fails(MissingTaskInstanceException, task.stdout, 7)
    task.download_results(str(directory / "results"))
    found = files_of(directory / "results")
    assert found["out/sum.txt"] == b"7\n", found
    assert "dropped.tmp" not in found
    assert "unused.txt" not in found
    assert found["numbers.txt"] == b"3 4\n"

    same = connection.retrieve_task(task.uuid)
    assert (same.name, same.state, same.profile) == ("sums", "Success", "batch")
    assert same.constants["WORD"] == "hold fast"
    assert same.labels == {"team": "physics"}
    assert same.results.uuid == "task-results"
    assert [each.uuid for each in same.resources] == ["task-inputs"]
    assert task.uuid in [each.uuid for each in connection.tasks()]
    assert task.uuid in [each.uuid for each in connection.all_tasks()]
    assert [each.uuid for each in connection.tasks(tags=["first", "none"])] == [task.uuid]
    assert [each.uuid for each in connection.tasks(tags_intersect=["solver", "first"])] == [
        task.uuid
    ]
    assert connection.tasks(tags_intersect=["solver", "none"]) == []
    same.tags = ["second"]
    same.commit()
    assert connection.retrieve_task(task.uuid).tags == ["second"]
    fails(UnauthorizedException, task.abort)

    running = new_task(
        connection, "waits", "while ! grep -q 5 data/numbers.txt; do sleep 0.1; done; cat data/*"
    )
    running.resources = [inputs]
    running.submit()
    reaches(running, "FullyExecuting")
    inputs.add_string("come later\n", "data/later.txt")
    inputs.add_string("5 6\n", "data/numbers.txt")
    running.update_resources()
    assert reaches(running, *ENDED) == "Success", running.errors
    assert running.stdout() == "come later\n5 6\n"
    fails(UnauthorizedException, running.update_resources)
    running.delete()
    fails(MissingTaskException, running.update_resources)

    uuid = task.uuid
    task.delete(purge_resources=True, purge_results=True)
    fails(MissingTaskException, connection.retrieve_task, uuid)
    gone(connection, "task-results")
    gone(connection, "task-inputs")


def part_many(directory):
    """Several instances, several tasks at once, failures, wrong submissions, abort."""
    connection = connect()
    twins = new_task(connection, "twins", "echo instance $INSTANCE_ID", instances=2)
    broken = new_task(connection, "broken", "echo before; exit 3")
    odd = connection.create_task("odd", "no-such-profile", 1)
    answers = connection.submit_tasks([twins, broken])
    assert answers is None or len(answers) == 2
    assert reaches(twins, *ENDED) == "Success", twins.errors
    assert sorted(twins.stdout().split("\n")) == ["", "instance 0", "instance 1"]
    assert twins.stdout(1) == "instance 1\n"
    assert reaches(broken, *ENDED) == "Failure"
    assert broken.errors, "a failure says why"
    assert "3" in broken.errors[0].message
    fails(QarnotGenericException, odd.submit)
    lost = new_task(connection, "lost", "true")
    lost.results = qarnot.bucket.Bucket(connection, "not-there", create=False)
    fails(MissingBucketException, lost.submit)
    poor = qarnot.Connection(client_token=os.environ["POOR_TOKEN"])
    fails(NotEnoughCreditsException, new_task(poor, "costly", "true").submit)
    bad = new_task(connection, "bad", "true")
    bad.snapshot_whitelist = "(unclosed"
    fails(QarnotGenericException, bad.submit)

    endless = new_task(connection, "endless", "echo begun; sleep 600")
    endless.results = connection.create_bucket("endless-results")
    endless.submit()
    reaches(endless, "FullyExecuting")
    until(lambda: "begun" in endless.stdout(), "its first line")
    endless.abort()
    assert reaches(endless, *ENDED) == "Cancelled"
    for each in (twins, broken, endless):
        each.delete()


def part_snapshots(directory):
    """Snapshots: instant with status and filters, periodic before and after, downloads."""
    connection = connect()
    results = connection.create_bucket("snapshot-results")
    task = new_task(connection, "steady", STEADY)
    task.results = results
    task.snapshot_whitelist = r"\.(txt|log)$"
    assert task.instant() is None, "it was not submitted yet"
    task.submit()
    reaches(task, "FullyExecuting")
    until(lambda: "line 3" in task.stdout(), "some output")

    snapshot = task.instant()
    assert task.wait_snapshot(snapshot, timeout=60)
    status = task.snapshot_status(snapshot)
    assert status._status.status == "Success", status._status
    assert status._task_uuid == task.uuid
    assert status._transferred_size == status._size_to_upload
    assert isinstance(status._size_to_upload, int)
    fails(MissingTaskException, task.snapshot_status, "00000000-0000-4000-8000-000000000000")
    seen = {each.key for each in results.list_files()}
    directories = {name.split("/")[0] for name in seen}
    assert len(directories) == 1, seen
    assert all(len(each) == 14 and each.isdigit() for each in directories), directories
    assert {name.split("/", 1)[1] for name in seen} == {"counter.txt", "run.log"}

    elsewhere = connection.create_bucket("snapshot-elsewhere")
    other = task.instant(
        whitelist=r"^(counter|run)\.", blacklist=r"log$", bucket=elsewhere, bucket_prefix="kept/"
    )
    assert task.wait_snapshot(other, timeout=60)
    names = [each.key for each in elsewhere.list_files()]
    assert len(names) == 1, names
    assert names[0].startswith("kept/"), names
    assert names[0].endswith("/counter.txt"), names

    fails(ValueError, task.snapshot, 0)
    fails(ValueError, task.snapshot, -5)
    task.snapshot(2, bucket="snapshot-elsewhere", bucket_prefix="every/")
    until(
        lambda: len({e.key.split("/")[1] for e in elsewhere.directory("every/")}) >= 3,
        "three periodic snapshots",
    )
    fails(QarnotGenericException, task.instant, whitelist="(a+")
    task.download_results(str(directory / "while-running"))
    assert any(name.endswith("/run.log") for name in files_of(directory / "while-running"))

    # Every directory is a state that was: the log ends where the counter stands, or next to it.
    home = directory / "states"
    home.mkdir()
    elsewhere.get_all_files(str(home))
    for counter in home.glob("every/*/counter.txt"):
        text, log = counter.read_text().strip(), counter.with_name("run.log").read_text()
        last = int(log.strip().rsplit(" ", 1)[1])
        assert not text or last <= int(text) <= last + 1, (counter, text, last)

    task.abort()
    assert reaches(task, *ENDED) == "Cancelled"
    fails(UnauthorizedException, task.instant)
    assert {each.key for each in results.list_files()} >= seen, "snapshots outlive the task"
    task.delete()
    assert {each.key for each in results.list_files()} >= seen

    early = new_task(connection, "early", STEADY)
    early.results = connection.create_bucket("early-results")
    early.snapshot(1)
    early.submit()
    until(lambda: list(early.results.list_files()), "a snapshot asked for before submission")
    assert early.state in ("FullyExecuting", "FullyDispatched", "Submitted")
    early.abort()
    reaches(early, *ENDED)


def part_signatures(directory):
    """Requests to buckets that must be refused: wrong, old, changed and foreign ones."""
    connection = connect()
    connection.create_bucket("signed")
    endpoint = os.environ["QARNOT_CLUSTER_URL"].removesuffix("/qarnot") + "/s3"
    email = connection.user_info.email

    def client(key=email, secret=os.environ["QARNOT_CLIENT_TOKEN"]):
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="eu-test-1",
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        )

    def refused(code, act, **named):
        error = fails(ClientError, act, **named)
        assert error.response["Error"]["Code"] in code, error

    client().put_object(Bucket="signed", Key="k", Body=b"v")
    wrong = client(secret="hf_" + "y" * 43)
    refused({"SignatureDoesNotMatch", "InvalidAccessKeyId"}, wrong.list_buckets)
    refused({"InvalidAccessKeyId"}, client(key="nobody@example.org").list_buckets)
    foreign = client(key=os.environ["FOREIGN_KEY"], secret=os.environ["FOREIGN_TOKEN"])
    refused({"NoSuchBucket"}, foreign.get_object, Bucket="signed", Key="k")
    assert [each["Name"] for each in foreign.list_buckets()["Buckets"]] == []
    read_only = client(key=os.environ["READER_KEY"], secret=os.environ["READER_TOKEN"])
    assert read_only.get_object(Bucket="signed", Key="k")["Body"].read() == b"v"
    refused({"AccessDenied"}, read_only.put_object, Bucket="signed", Key="k", Body=b"w")
    refused({"AccessDenied"}, read_only.delete_object, Bucket="signed", Key="k")
    assert client().get_object(Bucket="signed", Key="k")["Body"].read() == b"v"


PARTS = {
    name.removeprefix("part_"): act for name, act in globals().items() if name.startswith("part_")
}

if __name__ == "__main__":
    assert BucketStorageUnavailableException
    where = Path(sys.argv[2])
    where.mkdir(parents=True, exist_ok=True)
    PARTS[sys.argv[1]](where)
