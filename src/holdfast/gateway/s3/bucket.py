"""Buckets as a whole: listed, made, looked at, removed, and what SDKs ask about them besides."""

from __future__ import annotations

from starlette.responses import Response

from holdfast.gateway.s3.call import ROOT, Call, check_bucket_name
from holdfast.gateway.s3.document import received_document
from holdfast.gateway.s3.index import OpenedBucket
from holdfast.gateway.s3.metadata import check_wishes
from holdfast.gateway.s3.service import Buckets
from holdfast.gateway.s3.xml import Member, answer, document, parse, time_text

_DOCUMENT_BYTES = 64 << 10
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"


def owner(account_id: str) -> Member:
    return ("Owner", [("ID", account_id), ("DisplayName", account_id)])


async def list_buckets(buckets: Buckets, call: Call) -> Response:
    """ListBuckets."""
    found = await buckets.ask(lambda: buckets.index.buckets(call.caller))
    shown: list[Member] = [
        ("Bucket", [("Name", each.name), ("CreationDate", time_text(each.created_at))])
        for each in found
        if each.name.startswith(call.text("prefix"))
    ]
    account = found[0].account_id if found else ""
    return answer("ListAllMyBucketsResult", owner(account), ("Buckets", shown))


async def create_bucket(buckets: Buckets, call: Call) -> Response:
    """CreateBucket; one that the account has already is answered the same."""
    check_bucket_name(call.bucket)
    check_wishes(call)
    body = await received_document(call, _DOCUMENT_BYTES)
    if body:
        parse(body, "CreateBucketConfiguration")
    await buckets.ask(lambda: buckets.index.create(call.caller, call.bucket))
    buckets.forget(call.bucket)
    return Response(None, 200, {"Location": f"{ROOT}/{call.bucket}"})


async def head_bucket(buckets: Buckets, call: Call) -> Response:
    """HeadBucket."""
    await buckets.opened(call.caller, call.bucket, anew=True)
    return Response(None, 200, {"x-amz-bucket-region": call.claim.region}, "application/xml")


async def delete_bucket(buckets: Buckets, call: Call) -> Response:
    """DeleteBucket."""
    await buckets.remove(call.caller, call.bucket)
    return Response(None, 204)


async def location(buckets: Buckets, call: Call) -> Response:
    """GetBucketLocation: the region that the client takes it for."""
    await buckets.opened(call.caller, call.bucket)
    region = "" if call.claim.region == "us-east-1" else call.claim.region
    text = document("LocationConstraint").decode()
    closing = "</LocationConstraint>"
    return Response(text.replace(closing, region + closing), 200, None, "application/xml")


async def versioning(buckets: Buckets, call: Call) -> Response:
    """GetBucketVersioning: never switched on."""
    await buckets.opened(call.caller, call.bucket)
    return answer("VersioningConfiguration")


async def access_control(buckets: Buckets, call: Call) -> Response:
    """GetBucketAcl and GetObjectAcl: the owner may do everything."""
    bucket: OpenedBucket = await buckets.opened(call.caller, call.bucket)
    if call.key:
        await buckets.find(call.caller, bucket, call.key)
    account = bucket.grant.account_id
    text = document("AccessControlPolicy", owner(account)).decode()
    grantee = (
        f'<Grantee xmlns:xsi="{_INSTANCE}" xsi:type="CanonicalUser"><ID>{account}</ID>'
        f"<DisplayName>{account}</DisplayName></Grantee>"
    )
    granted = f"<Grant>{grantee}<Permission>FULL_CONTROL</Permission></Grant>"
    closing = "</AccessControlPolicy>"
    text = text.replace(closing, f"<AccessControlList>{granted}</AccessControlList>{closing}")
    return Response(text, 200, None, "application/xml")
