"""What has to hold of a bucket after crashes: every object that was acknowledged, and the sums.

`look_at_bucket` may be called when nobody writes; it changes nothing. `let_it_be_swept` lets
more than a week pass first, so that nothing is excused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import httpx
from bucket_site import BUCKET, BucketSite
from control_processes import eventually
from sqlalchemy import select

from holdfast.control.tables import Body, Bucket, StoredObject, Upload, UploadPart
from holdfast.control.uploads import LASTS
from holdfast.store.key import is_temporary


def look_at_bucket(site: BucketSite) -> None:
    """Fail unless everything acknowledged is there, whole, and counted."""
    check_counts(site)
    check_bodies(site)
    check_objects(site)
    _check_logs(site)


def let_it_be_swept(site: BucketSite) -> None:
    """After a week nothing is left but what objects are made of, and that is all there."""
    site.clock.step((LASTS + timedelta(hours=1)).total_seconds())
    eventually(lambda: not _uploads(site), lambda: site.describe("old uploads stay"))
    site.clock.step(timedelta(hours=25).total_seconds())
    eventually(lambda: not _due(site), lambda: site.describe("bodies are not swept"))
    in_use = {body for body, row in _bodies(site).items() if row.uses}
    # A gateway keeps some ids that it has not used, and so there is nothing under them.
    eventually(
        lambda: set(_files(site)) == in_use,
        lambda: f"left: {set(_files(site)) - in_use}, lost: {in_use - set(_files(site))}",
    )
    look_at_bucket(site)
    for each in _leftovers(site):
        os.utime(each, (0, 0))  # a file's age is the machine's, and not the test's
    site.servers[0].restart()
    check_objects(site)
    eventually(lambda: not _leftovers(site), lambda: site.describe("files are left"))


def check_objects(site: BucketSite) -> None:
    """Under every key there is what was acknowledged last, or what was begun since."""
    secret = site.token[1]
    base = f"http://127.0.0.1:{site.servers[0].port}/data/v1/buckets/{BUCKET}/objects"
    acknowledged = site.book.at_least()
    # Not signed, because the server's clock may be another one by now.
    with httpx.Client(headers={"Authorization": f"Bearer {secret}"}, timeout=60) as client:
        answer = client.get(base, params={"limit": 1000})
        assert answer.is_success, answer.text
        listed = {each["key"]: each for each in answer.json()["objects"]}
        for key in site.book.begun.keys() | listed.keys():
            etag = listed[key]["etag"] if key in listed else ""
            version = site.book.seen(key, etag, acknowledged.get(key, 0))
            if not version.number:
                continue
            assert listed[key]["size_bytes"] == version.size_bytes
            found = client.get(f"{base}/{key}")
            assert found.is_success, f"{key} cannot be read: {found.status_code} {found.text}"
            assert found.headers["ETag"] == f'"{version.etag}"'
            assert found.content == version.data, f"{key} is not what was written"


def check_counts(site: BucketSite) -> None:
    """The bucket's numbers are the sums of what it has, and each body counts its uses."""
    with site.database.read() as tx:
        bucket = tx.scalars(select(Bucket).where(Bucket.name == BUCKET)).one()
        objects = tx.scalars(select(StoredObject)).all()
        parts = tx.scalars(select(UploadPart)).all()
        bodies = {each.id: each for each in tx.scalars(select(Body))}
    uses: Counter[str] = Counter()
    rows: list[StoredObject | UploadPart] = [*objects, *parts]
    for row in rows:
        assert row.size_bytes == sum(each["bytes"] for each in row.bodies)
        uses.update(each["id"] for each in row.bodies)
        for each in row.bodies:
            assert each["id"] in bodies, f"the body {each['id']} is in use and not known"
            assert bodies[each["id"]].size_bytes == each["bytes"]
    for body in bodies.values():
        assert body.uses == uses[body.id], f"{body.id}: {body.uses} for {uses[body.id]} uses"
        assert (body.due_at is None) == bool(body.uses)
    assert bucket.objects == sum(not each.hidden for each in objects)
    stored = sum(each.size_bytes for each in bodies.values() if each.uses)
    assert bucket.stored_bytes == stored, f"{bucket.stored_bytes} counted, {stored} there"


def check_bodies(site: BucketSite) -> None:
    """What is in use is in the store, and nothing is there that nobody would ever remove."""
    rows, files = _bodies(site), _files(site)
    lost = {each for each, row in rows.items() if row.uses and each not in files}
    assert not lost, f"bodies in use are gone: {sorted(lost)}"
    forgotten = files.keys() - rows.keys()
    assert not forgotten, f"nobody will ever remove {sorted(forgotten)}"


def _check_logs(site: BucketSite) -> None:
    for server in site.servers:
        assert not server.unexpected, server.unexpected[:3]


def _bodies(site: BucketSite) -> dict[str, Body]:
    with site.database.read() as tx:
        return {each.id: each for each in tx.scalars(select(Body))}


def _due(site: BucketSite) -> list[str]:
    """Bodies that wait to be removed; those that were reserved lately do not."""
    now: datetime = site.clock()
    return [
        each
        for each, row in _bodies(site).items()
        if not row.uses and row.due_at is not None and row.due_at < now - timedelta(minutes=1)
    ]


def _uploads(site: BucketSite) -> list[str]:
    with site.database.read() as tx:
        return list(tx.scalars(select(Upload.id)))


def _files(site: BucketSite) -> Mapping[str, Path]:
    """Bodies in the store by their ids; what is only being written has another name."""
    found = (each for each in (site.objects / "bodies").rglob("*") if each.is_file())
    return {each.name: each for each in found if not is_temporary(each.name)}


def _leftovers(site: BucketSite) -> list[Path]:
    """What writers that were killed have left, of bodies and of packs."""
    found = (each for each in site.objects.rglob("*") if each.is_file())
    return [each for each in found if is_temporary(each.name)]
