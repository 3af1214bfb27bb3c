"""Buckets as boto3 sees them: a real server, a real control plane, the client that people have."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import botocore.auth
import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from bucket_server import BucketServer, bucket_server
from sqlalchemy import update

from holdfast.control.tables import Body

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("buckets")]

MIB = 1 << 20
ODD_KEYS = [
    "plain",
    "a b+c",
    "%2F",
    "a//b",
    "./dot",
    "../up",
    "a/../b",
    "a/./b",
    "//",
    "Ünï €.txt",
    "\U0001f600",
    "q?x=y&z#f;",
    "~tilde*'()!",
    'quote"<&>',
    "new\nline",
    "\ufffe",
    "control\x01",
    "x" * 1024,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    with bucket_server(tmp_path_factory.mktemp("buckets") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def s3(server: BucketServer) -> Any:
    return server.client()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    s3.create_bucket(Bucket=name)
    return name


def refused(code: str, status: int, act: Any, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        act(**arguments)
    answer: dict[str, Any] = caught.value.response
    found = answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]
    assert found == (code, status), answer["Error"]
    return answer


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def keys(s3: Any, bucket: str, **how: Any) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, **how).get("Contents", [])]


def bodies(server: BucketServer) -> int:
    return sum(1 for path in server.data.rglob("bodies/*/*/*") if path.is_file())


# Buckets


def test_a_bucket_is_made_found_listed_and_removed(s3: Any) -> None:
    for _ in range(2):
        made = s3.create_bucket(Bucket="some-bucket")
        assert made["ResponseMetadata"]["HTTPStatusCode"] == 200, "twice is no error"
    assert "some-bucket" in [each["Name"] for each in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket="some-bucket")
    assert s3.get_bucket_location(Bucket="some-bucket")["LocationConstraint"] is None
    assert "Status" not in s3.get_bucket_versioning(Bucket="some-bucket")
    grants = s3.get_bucket_acl(Bucket="some-bucket")["Grants"]
    assert [each["Permission"] for each in grants] == ["FULL_CONTROL"]
    s3.put_object(Bucket="some-bucket", Key="k", Body=b"")
    refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket="some-bucket")
    s3.delete_object(Bucket="some-bucket", Key="k")
    s3.delete_bucket(Bucket="some-bucket")
    refused("404", 404, s3.head_bucket, Bucket="some-bucket")
    refused("NoSuchBucket", 404, s3.list_objects_v2, Bucket="some-bucket")
    refused("NoSuchBucket", 404, s3.put_object, Bucket="some-bucket", Key="k", Body=b"x")
    refused("NoSuchBucket", 404, s3.delete_bucket, Bucket="some-bucket")


@pytest.mark.parametrize("name", ["Up", "a_b", "xn..y", "1.2.3.4", "UPPER-CASE", "-begin"])
def test_a_wrong_name_of_a_bucket_is_refused(s3: Any, name: str) -> None:
    refused("InvalidBucketName", 400, s3.create_bucket, Bucket=name)


def test_what_is_not_there_is_said_to_be_not_implemented(s3: Any, bucket: str) -> None:
    for act in (s3.get_bucket_policy, s3.get_bucket_lifecycle_configuration, s3.get_bucket_cors):
        refused("NotImplemented", 501, act, Bucket=bucket)
    refused("NotImplemented", 501, s3.get_object_tagging, Bucket=bucket, Key="k")
    refused("NotImplemented", 501, s3.put_object, Bucket=bucket, Key="k", ACL="public-read")
    refused(
        "InvalidStorageClass", 400, s3.put_object, Bucket=bucket, Key="k", StorageClass="GLACIER"
    )


# Objects


def test_an_object_comes_back_with_all_that_was_given(s3: Any, bucket: str) -> None:
    data = content(300_000)
    put = s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=data,
        ContentType="text/html; charset=utf-8",
        ContentEncoding="gzip",
        ContentDisposition='attachment; filename="x"',
        CacheControl="no-cache",
        Metadata={"colour": "blue", "long": "a  b"},
    )
    tag = f'"{hashlib.md5(data).hexdigest()}"'
    assert put["ETag"] == tag
    for found in (s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")):
        assert found["ETag"] == tag
        assert found["ContentLength"] == len(data)
        assert found["ContentType"] == "text/html; charset=utf-8"
        assert found["ContentEncoding"] == "gzip"
        assert found["ContentDisposition"] == 'attachment; filename="x"'
        assert found["CacheControl"] == "no-cache"
        assert found["Metadata"] == {"colour": "blue", "long": "a  b"}
        assert abs(found["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)
        assert found["ResponseMetadata"]["HTTPHeaders"]["x-content-type-options"] == "nosniff"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_object(Bucket=bucket, Key="k")
    refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key="k")
    refused("404", 404, s3.head_object, Bucket=bucket, Key="k")


def test_an_empty_object(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="folder/", Body=b"")
    found = s3.get_object(Bucket=bucket, Key="folder/")
    assert (found["Body"].read(), found["ETag"]) == (b"", '"d41d8cd98f00b204e9800998ecf8427e"')
    refused("InvalidRange", 416, s3.get_object, Bucket=bucket, Key="folder/", Range="bytes=0-")


def test_ranges(s3: Any, bucket: str) -> None:
    data = content(5 * MIB + 17)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    size = len(data)
    for first, last in (
        (0, 0),
        (1, 70_000),
        (65_535, 65_536),
        (4 * MIB - 1, 5 * MIB),
        (size - 1, size),
    ):
        found = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
        assert found["Body"].read() == data[first : last + 1]
        assert found["ContentRange"] == f"bytes {first}-{min(last, size - 1)}/{size}"
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=-5")["Body"].read() == data[-5:]
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=7-")["Body"].read() == data[7:]
    refused("InvalidRange", 416, s3.get_object, Bucket=bucket, Key="k", Range=f"bytes={size}-")


def test_conditions(s3: Any, bucket: str) -> None:
    tag = s3.put_object(Bucket=bucket, Key="k", Body=b"one")["ETag"]
    then = datetime.now(UTC)
    before, after = then - timedelta(hours=1), then + timedelta(hours=1)
    get: dict[str, Any] = {"Bucket": bucket, "Key": "k"}
    s3.get_object(**get, IfMatch=tag)
    s3.get_object(**get, IfNoneMatch='"other"', IfModifiedSince=after)
    s3.get_object(**get, IfModifiedSince=before)
    s3.get_object(**get, IfUnmodifiedSince=after)
    for wrong in ({"IfMatch": '"other"'}, {"IfUnmodifiedSince": before}):
        refused("PreconditionFailed", 412, s3.get_object, **get, **wrong)
    for same in ({"IfNoneMatch": tag}, {"IfModifiedSince": after}):
        refused("304", 304, s3.get_object, **get, **same)
    refused("PreconditionFailed", 412, s3.put_object, **get, Body=b"x", IfNoneMatch="*")
    s3.put_object(Bucket=bucket, Key="new", Body=b"x", IfNoneMatch="*")
    refused("NotImplemented", 501, s3.put_object, **get, Body=b"x", IfMatch=tag)


def test_of_two_who_write_only_a_new_object_one_does(server: BucketServer, bucket: str) -> None:
    """Both are let in before either has stored a byte, and the index decides."""
    clients = [server.client() for _ in range(2)]
    start = threading.Barrier(2)

    def put(client: Any, key: str, body: bytes) -> bytes | ClientError:
        start.wait()
        try:
            client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            return error
        return body

    with ThreadPoolExecutor(2) as threads:
        for number in range(4):
            size = 0 if number % 2 else 3 * MIB
            bodies = [content(size, number), content(size, -1)]
            results = list(threads.map(put, clients, [f"{number}"] * 2, bodies))
            (done,) = (each for each in results if isinstance(each, bytes))
            (lost,) = (each for each in results if isinstance(each, ClientError))
            assert lost.response["Error"]["Code"] == "PreconditionFailed"
            assert lost.response["ResponseMetadata"]["HTTPStatusCode"] == 412
            found = clients[0].get_object(Bucket=bucket, Key=f"{number}")
            assert found["Body"].read() == done


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key)[:20])
def test_a_key_is_exactly_what_it_is(s3: Any, bucket: str, key: str) -> None:
    data = key.encode()
    s3.put_object(Bucket=bucket, Key=key, Body=data)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == data
    assert keys(s3, bucket) == [key]
    if key.isprintable():
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
        assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == data
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
        assert keys(s3, bucket) == ["copy"]


def test_a_key_that_is_too_long_is_refused(s3: Any, bucket: str) -> None:
    refused("KeyTooLongError", 400, s3.put_object, Bucket=bucket, Key="x" * 1025, Body=b"")


def test_copies(s3: Any, bucket: str, server: BucketServer) -> None:
    s3.put_object(
        Bucket=bucket, Key="a", Body=b"content", Metadata={"m": "1"}, ContentType="text/plain"
    )
    count = bodies(server)
    source = {"Bucket": bucket, "Key": "a"}
    done = s3.copy_object(Bucket=bucket, Key="b", CopySource=source)["CopyObjectResult"]
    assert done["ETag"] == f'"{hashlib.md5(b"content").hexdigest()}"'
    assert bodies(server) == count, "no byte moved"
    found = s3.get_object(Bucket=bucket, Key="b")
    assert (found["Metadata"], found["ContentType"]) == ({"m": "1"}, "text/plain")
    s3.copy_object(
        Bucket=bucket,
        Key="c",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"n": "2"},
        ContentType="text/csv",
    )
    s3.delete_object(Bucket=bucket, Key="a")
    found = s3.get_object(Bucket=bucket, Key="c")
    assert (found["Metadata"], found["ContentType"]) == ({"n": "2"}, "text/csv")
    assert found["Body"].read() == b"content"
    refused("NoSuchKey", 404, s3.copy_object, Bucket=bucket, Key="d", CopySource=source)
    self = {"Bucket": bucket, "Key": "b"}
    refused("InvalidRequest", 400, s3.copy_object, Bucket=bucket, Key="b", CopySource=self)
    wrong = {"CopySource": self, "CopySourceIfMatch": '"other"'}
    refused("PreconditionFailed", 412, s3.copy_object, Bucket=bucket, Key="d", **wrong)


# Multipart


def test_large_files_go_in_parts(s3: Any, bucket: str, tmp_path: Path) -> None:
    """The transfers of SDKs: 8 MiB parts, ten at a time, and a known ETag."""
    data = content(43 * MIB + 5)
    file = tmp_path / "large"
    file.write_bytes(data)
    config = TransferConfig(
        multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=10
    )
    s3.upload_file(str(file), bucket, "large", Config=config, ExtraArgs={"Metadata": {"m": "1"}})
    found = s3.head_object(Bucket=bucket, Key="large")
    sums = [hashlib.md5(data[at : at + 8 * MIB]).digest() for at in range(0, len(data), 8 * MIB)]
    assert found["ETag"] == f'"{hashlib.md5(b"".join(sums)).hexdigest()}-{len(sums)}"'
    assert (found["ContentLength"], found["Metadata"]) == (len(data), {"m": "1"})
    back = io.BytesIO()
    s3.download_fileobj(bucket, "large", back, Config=config)
    assert back.getvalue() == data
    at = 8 * MIB - 10
    part = s3.get_object(Bucket=bucket, Key="large", Range=f"bytes={at}-{at + 8 * MIB + 20}")
    assert part["Body"].read() == data[at : at + 8 * MIB + 21]
    s3.copy({"Bucket": bucket, "Key": "large"}, bucket, "again", Config=config)
    assert s3.get_object(Bucket=bucket, Key="again")["Body"].read() == data


def test_parts_by_hand(s3: Any, bucket: str) -> None:
    begun: dict[str, Any] = {"Bucket": bucket, "Key": "k"}
    begun["UploadId"] = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    one, two = content(5 * MIB, 1), content(10, 2)
    tags = {}
    for number, data in ((2, two), (1, b"replaced"), (1, one)):
        tags[number] = s3.upload_part(**begun, PartNumber=number, Body=data)["ETag"]
    parts = s3.list_parts(**begun)["Parts"]
    assert [(each["PartNumber"], each["Size"]) for each in parts] == [(1, 5 * MIB), (2, 10)]
    first = s3.list_parts(**begun, MaxParts=1)
    assert first["IsTruncated"]
    rest = s3.list_parts(**begun, PartNumberMarker=first["NextPartNumberMarker"])
    assert [each["PartNumber"] for each in rest["Parts"]] == [2]
    uploads = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [each["UploadId"] for each in uploads] == [begun["UploadId"]]
    assert keys(s3, bucket) == []

    def complete(*wanted: tuple[int, str]) -> dict[str, Any]:
        named = [{"PartNumber": number, "ETag": tag} for number, tag in wanted]
        return {**begun, "MultipartUpload": {"Parts": named}}

    act = s3.complete_multipart_upload
    refused("InvalidPartOrder", 400, act, **complete((2, tags[2]), (1, tags[1])))
    refused("InvalidPart", 400, act, **complete((1, tags[2]), (2, tags[2])))
    refused("InvalidPart", 400, act, **complete((1, tags[1]), (3, tags[2])))
    refused("MalformedXML", 400, act, **complete())
    done = act(**complete((1, tags[1]), (2, tags[2])))
    assert done["ETag"].endswith('-2"')
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == one + two
    refused("NoSuchUpload", 404, s3.upload_part, **begun, PartNumber=1, Body=b"x")


def test_small_parts_and_aborted_uploads(s3: Any, bucket: str) -> None:
    begun: dict[str, Any] = {"Bucket": bucket, "Key": "k"}
    begun["UploadId"] = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(**begun, PartNumber=number, Body=b"x")["ETag"],
        }
        for number in (1, 2)
    ]
    act = s3.complete_multipart_upload
    refused("EntityTooSmall", 400, act, **begun, MultipartUpload={"Parts": parts})
    s3.abort_multipart_upload(**begun)
    refused("NoSuchUpload", 404, s3.list_parts, **begun)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


# Lists


def test_lists(s3: Any, bucket: str) -> None:
    names = ["a", "a/1", "a/2/x", "a/2/y", "a-b", "b/z", "c", "é", "\U0001f600"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    expected = sorted(names, key=str.encode)
    for kind in ("list_objects", "list_objects_v2"):
        for size in (1, 2, 1000):
            pages = s3.get_paginator(kind).paginate(
                Bucket=bucket, PaginationConfig={"PageSize": size}
            )
            assert [each["Key"] for page in pages for each in page.get("Contents", [])] == expected
            pages = s3.get_paginator(kind).paginate(
                Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": size}
            )
            plain, groups = [], []
            for page in pages:
                plain += [each["Key"] for each in page.get("Contents", [])]
                groups += [each["Prefix"] for each in page.get("CommonPrefixes", [])]
            assert (plain, groups) == ([k for k in expected if "/" not in k], ["a/", "b/"])
    below = s3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/", FetchOwner=True)
    assert [each["Key"] for each in below["Contents"]] == ["a/1"]
    assert [each["Prefix"] for each in below["CommonPrefixes"]] == ["a/2/"]
    assert "Owner" in below["Contents"][0]
    assert below["KeyCount"] == 2
    assert keys(s3, bucket, StartAfter="b/z") == ["c", "é", "\U0001f600"]
    versions = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert [(each["Key"], each["VersionId"]) for each in versions] == [
        (k, "null") for k in expected
    ]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0
    refused(
        "InvalidArgument", 400, s3.list_objects_v2, Bucket=bucket, ContinuationToken="nonsense!"
    )


def test_many_are_deleted_at_once(s3: Any, bucket: str) -> None:
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"x")
    wanted = [{"Key": f"k{number}", "VersionId": "null"} for number in range(4)]
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [*wanted, {"Key": "none"}]})
    assert len(done["Deleted"]) == 5
    wrong = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "k4", "VersionId": "other"}], "Quiet": True}
    )
    assert [each["Code"] for each in wrong["Errors"]] == ["NoSuchVersion"]
    assert keys(s3, bucket) == ["k4"]


# Views


def test_snapshots_are_seen_as_directories(
    s3: Any, bucket: str, server: BucketServer, tmp_path: Path
) -> None:
    """T5: each snapshot is a directory of the bucket, beside what else is in it."""
    tree = tmp_path / "job"
    (tree / "out/deep").mkdir(parents=True)
    (tree / "log").write_bytes(b"line\n")
    (tree / "out/large").write_bytes(content(6 * MIB))
    (tree / "out/empty").write_bytes(b"")
    (tree / "out/deep/x y+z").write_bytes(b"odd")
    (tree / "link").symlink_to("log")
    Path(os.fsdecode(bytes(tree) + b"/\xff")).write_bytes(b"no text")
    s3.put_object(Bucket=bucket, Key="result", Body=b"final")
    server.show(bucket, "20260101000000/", tree)
    names = ["log", "out/deep/x y+z", "out/empty", "out/large"]
    first = [f"20260101000000/{name}" for name in names]
    assert keys(s3, bucket) == [*first, "result"]
    (tree / "log").write_bytes(b"line\nand another\n")
    server.show(bucket, "20260102000000/", tree)
    second = [f"20260102000000/{name}" for name in names]
    assert keys(s3, bucket) == [*first, *second, "result"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    prefixes = [each["Prefix"] for each in page["CommonPrefixes"]]
    assert prefixes == ["20260101000000/", "20260102000000/"]
    below = s3.list_objects_v2(Bucket=bucket, Prefix="20260101000000/out/", Delimiter="/")
    assert [each["Prefix"] for each in below["CommonPrefixes"]] == ["20260101000000/out/deep/"]
    tags = {each["Key"]: each["ETag"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert tags[first[0]] != tags[second[0]], "other content"
    assert tags[first[3]] == tags[second[3]], "the same content"

    large = content(6 * MIB)
    assert s3.get_object(Bucket=bucket, Key=first[3])["Body"].read() == large
    part = s3.get_object(Bucket=bucket, Key=first[3], Range="bytes=1000000-5000000")
    assert part["Body"].read() == large[1_000_000:5_000_001]
    found = s3.head_object(Bucket=bucket, Key=first[0])
    assert (found["ContentLength"], found["ETag"]) == (5, tags[first[0]])
    assert s3.get_object(Bucket=bucket, Key=first[1])["Body"].read() == b"odd"
    assert s3.get_object(Bucket=bucket, Key=first[2])["Body"].read() == b""
    for missing in ("20260101000000/link", "20260101000000/out", "20260101000000/none", "2026"):
        refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key=missing)

    s3.copy_object(Bucket=bucket, Key="kept", CopySource={"Bucket": bucket, "Key": first[3]})
    assert s3.get_object(Bucket=bucket, Key="kept")["Body"].read() == large
    s3.put_object(Bucket=bucket, Key=first[0], Body=b"over it")
    assert s3.get_object(Bucket=bucket, Key=first[0])["Body"].read() == b"over it"
    s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": first[0]}, {"Key": first[1]}, {"Key": "result"}]}
    )
    assert keys(s3, bucket) == [*first[2:], *second, "kept"]
    refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key=first[0])
    refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket=bucket)
    rest = [{"Key": each} for each in keys(s3, bucket)]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": rest})
    assert keys(s3, bucket) == []
    s3.delete_bucket(Bucket=bucket)


# Who may


def test_wrong_secrets_keys_and_clocks(s3: Any, server: BucketServer, bucket: str) -> None:
    key, secret = server.token()
    wrong = server.client((key, secret[:-1] + ("a" if secret[-1] != "a" else "b")))
    refused("SignatureDoesNotMatch", 403, wrong.list_objects_v2, Bucket=bucket)
    refused("SignatureDoesNotMatch", 403, wrong.put_object, Bucket=bucket, Key="k", Body=b"x" * MIB)
    unknown = server.client(("nobody@example.org", secret))
    refused("InvalidAccessKeyId", 403, unknown.list_buckets)
    good = server.client((key, secret))
    real = botocore.auth.get_current_datetime
    with patch("botocore.auth.get_current_datetime", lambda *_: real() + timedelta(minutes=20)):
        refused("RequestTimeTooSkewed", 403, good.list_buckets)
    good.list_buckets()
    anonymous = httpx.get(f"{server.url}/s3/{bucket}", trust_env=False)
    assert (anonymous.status_code, "<Code>AccessDenied</Code>" in anonymous.text) == (403, True)


def test_a_foreign_account_finds_nothing(s3: Any, server: BucketServer, bucket: str) -> None:
    """A4: no account reaches another's."""
    s3.put_object(Bucket=bucket, Key="secret", Body=b"x")
    theirs = server.client(server.token(account=server.account_named("Other")))
    assert theirs.list_buckets()["Buckets"] == []
    refused("NoSuchBucket", 404, theirs.get_object, Bucket=bucket, Key="secret")
    refused("NoSuchBucket", 404, theirs.list_objects_v2, Bucket=bucket)
    theirs.create_bucket(Bucket=bucket)  # a name of its own account
    assert keys(theirs, bucket) == []
    source = {"Bucket": bucket, "Key": "secret"}
    refused("NoSuchKey", 404, theirs.copy_object, Bucket=bucket, Key="k", CopySource=source)


def test_rights_are_separate(s3: Any, server: BucketServer, bucket: str) -> None:
    """A2: rights are separate."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    looks = server.client(server.token("read"))
    assert keys(looks, bucket) == ["k"]
    refused("AccessDenied", 403, looks.get_object, Bucket=bucket, Key="k")
    reads = server.client(server.token("read", "restore"))
    assert reads.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    refused("AccessDenied", 403, reads.put_object, Bucket=bucket, Key="n", Body=b"x")
    refused("AccessDenied", 403, reads.delete_object, Bucket=bucket, Key="k")
    adds = server.client(server.token("read", "create"))
    adds.put_object(Bucket=bucket, Key="n", Body=b"x")
    refused("AccessDenied", 403, adds.put_object, Bucket=bucket, Key="k", Body=b"y")


def test_presigned_requests(s3: Any, server: BucketServer, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k v", Body=b"content")
    s3 = server.client(signature_version="s3v4")
    client = httpx.Client(trust_env=False)
    named = {"Bucket": bucket, "Key": "k v", "ResponseContentType": "text/csv"}
    url = s3.generate_presigned_url("get_object", named, ExpiresIn=60)
    found = client.get(url)
    assert (found.content, found.headers["Content-Type"]) == (b"content", "text/csv")
    assert "sandbox" in found.headers["Content-Security-Policy"]
    assert client.get(url, headers={"Range": "bytes=1-2"}).content == b"on"
    for changed in (
        url.replace("k%20v", "other"),
        url.replace("text%2Fcsv", "text%2Fhtml"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600000"),
    ):
        answer = client.get(changed)
        assert (answer.status_code, "SignatureDoesNotMatch" in answer.text) == (403, True), changed
    assert client.put(url, content=b"x").status_code == 403
    assert client.delete(url).status_code == 403
    put = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "new"}, ExpiresIn=60)
    assert client.put(put, content=content(MIB)).status_code == 200
    assert s3.get_object(Bucket=bucket, Key="new")["Body"].read() == content(MIB)
    smuggled = client.put(put, headers={"x-amz-copy-source": f"/{bucket}/k v"})
    assert (smuggled.status_code, "AccessDenied" in smuggled.text) == (403, True)
    real = botocore.auth.get_current_datetime
    with patch("botocore.auth.get_current_datetime", lambda *_: real() - timedelta(minutes=2)):
        old = s3.generate_presigned_url(
            "get_object", {"Bucket": bucket, "Key": "k v"}, ExpiresIn=60
        )
    answer = client.get(old)
    assert (answer.status_code, "Request has expired" in answer.text) == (403, True)
    client.close()


# Bodies


def test_a_body_that_was_tampered_with_is_not_taken(s3: Any, bucket: str) -> None:
    def tamper(request: Any, **_: Any) -> None:
        request.body = b"X" + request.body[1:] if isinstance(request.body, bytes) else b"X" * 7

    s3.put_object(Bucket=bucket, Key="k", Body=b"before!")
    s3.meta.events.register("before-send.s3.PutObject", tamper)
    try:
        refused(
            "XAmzContentSHA256Mismatch", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"content"
        )
    finally:
        s3.meta.events.unregister("before-send.s3.PutObject", tamper)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before!"
    wrong = {"ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    refused("BadDigest", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"content", **wrong)
    crc = {"ChecksumCRC32": "AAAAAA=="}
    refused("BadDigest", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"content", **crc)
    refused("BadDigest", 400, s3.put_object, Bucket=bucket, Key="other", Body=b"content", **crc)
    assert keys(s3, bucket) == ["k"]


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_come_back(s3: Any, bucket: str, algorithm: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"content", ChecksumAlgorithm=algorithm)
    name = f"Checksum{algorithm}"
    found = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert found[name] == put[name]
    assert found["Body"].read() == b"content"


def test_a_client_that_goes_away_leaves_nothing(s3: Any, server: BucketServer, bucket: str) -> None:
    signer = server.client(signature_version="s3v4")
    url = signer.generate_presigned_url(
        "put_object", {"Bucket": bucket, "Key": "half"}, ExpiresIn=60
    )
    parts = urlsplit(url)
    for sent in (0, 100_000, 3 * MIB):
        connection = http.client.HTTPConnection(parts.netloc)
        connection.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
        connection.putheader("Content-Length", str(4 * MIB))
        connection.endheaders()
        connection.send(b"x" * sent)
        connection.close()
    room = server.buckets.room
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while room.uploads.taken:
        assert datetime.now(UTC) < deadline
    assert keys(s3, bucket) == []
    refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key="half")


def test_documents_that_are_none(s3: Any, server: BucketServer, bucket: str) -> None:
    evil = (
        b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        b"<Delete><Object><Key>&b;</Key></Object></Delete>"
    )
    deep = b"<Delete>" * 50_000
    for body in (evil, deep, b"", b"<Delete>", b"<Other/>", b"<Delete></Delete>", b"\xff\xfe<"):
        event, replacing = "before-call.s3.DeleteObjects", _replacing(body)
        s3.meta.events.register_first(event, replacing)
        try:
            refused(
                "MalformedXML",
                400,
                s3.delete_objects,
                Bucket=bucket,
                Delete={"Objects": [{"Key": "k"}]},
            )
        finally:
            s3.meta.events.unregister(event, replacing)


def _replacing(body: bytes) -> Any:
    def replace(params: dict[str, Any], **_: Any) -> None:
        params["body"] = body
        params["headers"] = {
            name: value
            for name, value in params["headers"].items()
            if not name.lower().startswith(("x-amz-checksum", "content-md5"))
        }
        params.setdefault("context", {}).pop("checksum", None)

    return replace


# The same by bearer token


def test_bearer_tokens_reach_the_same_objects(s3: Any, server: BucketServer, bucket: str) -> None:
    headers = {"Authorization": f"Bearer {server.token()[1]}"}
    base = f"/data/v1/buckets/{bucket}/objects"
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        data = content(2 * MIB)
        put = client.put(f"{base}/a%2Fb//c", content=data)
        assert put.json()["etag"] == hashlib.md5(data).hexdigest()
        assert keys(s3, bucket) == ["a/b//c"]
        s3.put_object(Bucket=bucket, Key="d", Body=b"signed")
        page = client.get(base, params={"limit": 1}).json()
        assert [each["key"] for each in page["objects"]] == ["a/b//c"]
        page = client.get(base, params={"after": page["next_after"]}).json()
        assert [(each["key"], each["size_bytes"]) for each in page["objects"]] == [("d", 6)]
        assert page["next_after"] is None
        assert client.get(base, params={"delimiter": "/"}).json()["prefixes"] == ["a/"]
        assert client.get(f"{base}/a/b//c").content == data
        part = client.get(f"{base}/a/b//c", headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, data[100:200])
        assert client.head(f"{base}/d").headers["Content-Length"] == "6"
        assert client.get(f"{base}/none").status_code == 404
        assert client.delete(f"{base}/d").status_code == 204
        assert client.get(f"{base}/d").json()["code"] == "no_such_key"
        assert client.get("/data/v1/buckets/none/objects").json()["code"] == "no_such_bucket"
    with httpx.Client(base_url=server.url, trust_env=False) as nobody:
        assert nobody.get(base).status_code == 401


# What nobody needs goes


def test_bodies_that_nobody_needs_are_removed(server: BucketServer, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"replaced")
    s3.put_object(Bucket=bucket, Key="k", Body=b"stays")
    before = bodies(server)
    with server.parts.database.write() as tx:
        tx.execute(
            update(Body)
            .where(Body.uses == 0, Body.size_bytes > 0)
            .values(due_at=datetime.now(UTC) - timedelta(hours=1))
        )
    assert server.buckets.bodies.remove_due() >= 1
    assert bodies(server) < before
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"stays"
