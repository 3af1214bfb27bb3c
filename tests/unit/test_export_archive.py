"""Archives of snapshots, read back by Python's own readers."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from handmade_snapshot import MTIME, Handmade
from sample_repository import fill, make, save

from holdfast.errors import Damaged, NotFound, PathEscapes
from holdfast.flows.export_archive import (
    ArchiveFormat,
    ExportRequest,
    ExportResult,
    export_archive,
)
from holdfast.flows.tar_stream import TarStream
from holdfast.flows.zip_stream import ZipStream
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo.repository import Repository

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FILES: dict[str, int | bytes] = {"a.txt": 100, "d/b": 2 << 20, "d/e/c": b"", "f" * 120: 7}


@pytest.fixture
def repository() -> Repository:
    return make()


def exported(
    repository: Repository,
    snapshot: Snapshot,
    form: ArchiveFormat,
    path: bytes = b"",
    **more: object,
) -> tuple[bytes, ExportResult]:
    out = io.BytesIO()
    request = ExportRequest(snapshot.id, path, form, **more)  # type: ignore[arg-type]
    result = export_archive(repository, request, out)
    return out.getvalue(), result


def read_tar(data: bytes) -> dict[bytes, tarfile.TarInfo]:
    assert len(data) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {os.fsencode(info.name): info for info in archive}


@pytest.mark.parametrize("form", list(ArchiveFormat))
def test_a_folder_under_its_own_name(
    repository: Repository, tmp_path: Path, form: ArchiveFormat
) -> None:
    source = fill(tmp_path / "top", FILES)
    snapshot = save(repository, source)
    data, result = exported(repository, snapshot, form, os.fsencode(source))
    assert not result.findings
    assert result.entries == 7
    if form is ArchiveFormat.TAR:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = {info.name + "/" * info.isdir() for info in tar}
            content = {i.name: tar.extractfile(i).read() for i in tar if i.isfile()}  # type: ignore[union-attr]
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            names = set(archive.namelist())
            content = {name: archive.read(name) for name in names if not name.endswith("/")}
    assert names == {"top/", "top/d/", "top/d/e/", *(f"top/{name}" for name in FILES)}
    assert content == {f"top/{name}": (source / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("form", list(ArchiveFormat))
def test_the_whole_snapshot_and_one_file(
    repository: Repository, tmp_path: Path, form: ArchiveFormat
) -> None:
    source = fill(tmp_path / "top", {"x": b"content"})
    snapshot = save(repository, source)
    whole, _ = exported(repository, snapshot, form)
    one, result = exported(repository, snapshot, form, os.fsencode(source / "x"))
    assert result.entries == 1
    if form is ArchiveFormat.TAR:
        names = {os.fsdecode(name) for name in read_tar(whole)}
        assert set(read_tar(one)) == {b"x"}
    else:
        names = {n.rstrip("/") for n in zipfile.ZipFile(io.BytesIO(whole)).namelist()}
        assert zipfile.ZipFile(io.BytesIO(one)).read("x") == b"content"
    assert str(source / "x").lstrip("/") in names
    assert not any(name.startswith(".holdfast") for name in names)
    with pytest.raises(NotFound):
        exported(repository, snapshot, form, b"/nowhere")


def test_what_tar_keeps(repository: Repository, tmp_path: Path) -> None:
    source = fill(tmp_path / "top", {"a": b"1"})
    os.link(source / "a", source / "b")
    os.setxattr(source / "a", "user.x", b"\xff\n=")
    (source / "link").symlink_to("x" * 150)
    (source / "a").chmod(0o4751)
    os.utime(source / "a", ns=(MTIME, MTIME))
    strange = os.fsencode(source) + b"/\xff\xc3\xa4"
    Path(os.fsdecode(strange)).touch()
    snapshot = save(repository, source)
    data, result = exported(repository, snapshot, ArchiveFormat.TAR, os.fsencode(source))
    assert not result.findings
    read = read_tar(data)
    a = read[b"top/a"]
    assert (a.mode, a.uid, a.uname) == (0o4751, os.getuid(), snapshot.username)
    assert a.pax_headers["mtime"] == "1600000000.123456789"
    assert os.fsencode(a.pax_headers["SCHILY.xattr.user.x"]) == b"\xff\n="
    assert (read[b"top/b"].islnk(), read[b"top/b"].linkname) == (True, "top/a")
    assert read[b"top/link"].linkname == "x" * 150
    assert b"top/\xff\xc3\xa4" in read


@pytest.mark.parametrize("mtime_ns", [-1, -1_500_000_000, 0, 1 << 62])
def test_times_and_sizes_that_old_headers_do_not_hold(mtime_ns: int) -> None:
    node = Node(b"f", NodeType.FILE, 0o644, mtime_ns, mtime_ns, uid=1 << 31, gid=3_000_000)
    out = io.BytesIO()
    stream = TarStream(out)
    stream.add(b"f", node, ())
    stream.finish()
    info = read_tar(out.getvalue())[b"f"]
    assert (info.uid, info.gid) == (1 << 31, 3_000_000)
    assert float(info.mtime) == pytest.approx(mtime_ns / 1e9, rel=1e-12)
    zipped = io.BytesIO()
    archive = ZipStream(zipped)
    archive.add(b"f", node, ())
    archive.finish()
    archive.close()
    assert zipfile.ZipFile(zipped).infolist()[0].date_time >= (1980, 1, 1, 0, 0, 0)


def test_a_tar_header_for_more_than_eight_gibibytes() -> None:
    class Counting:
        def __init__(self) -> None:
            self.size, self.head = 0, b""

        def write(self, data: bytes) -> None:
            self.head += data if len(self.head) < 1024 else b""
            self.size += len(data)

    size = (9 << 30) + 1
    out = Counting()
    stream = TarStream(out)
    piece = bytes(1 << 20)
    pieces = (piece for _ in range(9 << 10))
    stream.add(b"f", Node(b"f", NodeType.FILE, size=size), (*pieces, b"x"))
    stream.finish()
    assert tarfile.TarInfo.frombuf(out.head[:512], "utf-8", "strict").size == size
    assert out.size == -(-(512 + size + 511 + 1024) // 10240) * 10240


def test_names_that_zip_cannot_hold_are_replaced_and_said(
    repository: Repository, tmp_path: Path
) -> None:
    source = tmp_path / "top"
    source.mkdir()
    for name in (b"\xff", b"\xfe\xc3\xa4", "n\u00e4me\u20ac".encode()):
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(name)
    (source / "link").symlink_to("target")
    os.mkfifo(source / "fifo")
    os.setxattr(source / "link", "trusted.x", b"1", follow_symlinks=False)
    snapshot = save(repository, source)
    data, result = exported(repository, snapshot, ArchiveFormat.ZIP, os.fsencode(source))
    assert sorted((f.code, f.subject) for f in result.findings) == [
        ("attributes_not_in_archive", "top/link"),
        ("name_replaced", "top/\\xfe\u00e4"),
        ("name_replaced", "top/\\xff"),
        ("not_in_archive", "top/fifo"),
    ]
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert set(archive.namelist()) == {
        "top/", "top/%FF", "top/%FE\u00e4", "top/n\u00e4me\u20ac", "top/link",
    }  # fmt: skip
    assert archive.read("top/%FF") == b"\xff"
    link = archive.getinfo("top/link")
    assert stat.S_ISLNK(link.external_attr >> 16)
    assert archive.read(link) == b"target"


def test_two_names_that_would_be_one_in_a_zip_archive(repository: Repository) -> None:
    with Handmade(repository) as made:
        below = made.make.file(b"x\xff", b"bytes")
        below_too = made.make.file(b"x%FF", b"text")
        snapshot = made.snapshot([below_too, below])
    data, result = exported(repository, snapshot, ArchiveFormat.ZIP)
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert {name: archive.read(name) for name in archive.namelist()} == {
        "x%FF": b"text",
        "x%FF~": b"bytes",
    }
    assert [(f.code, f.subject) for f in result.findings] == [("name_replaced", "x\\xff")]


def test_zip64_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file of gigabytes takes, with the limit lowered so that it needs none."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 2000)
    out = io.BytesIO()
    with closing(ZipStream(out)) as stream:
        stream.add(b"f", Node(b"f", NodeType.FILE, 0o600, MTIME, size=3000), [b"abc" * 1000])
        stream.finish()
    data = out.getvalue()
    archive = zipfile.ZipFile(out)
    assert archive.testzip() is None
    assert archive.read("f") == b"abc" * 1000
    assert data[4:6] == b"\x2d\x00"  # needs 4.5: the descriptor behind it has long numbers


def test_more_entries_than_the_old_form_counts() -> None:
    out = tempfile.TemporaryFile()  # noqa: SIM115 - outside of the memory that is measured
    node = Node(b"f", NodeType.FILE, 0o600, MTIME)
    with out, closing(ZipStream(out)) as stream:
        for number in range(65_000):
            stream.add(b"%09d" % number, node, ())
        tracemalloc.start()
        for number in range(65_000, 70_000):
            stream.add(b"%09d" % number, node, ())
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stream.finish()
        assert kept < 5_000 * 1_024, "an entry takes more memory than the docstring says"
        assert len(zipfile.ZipFile(out).namelist()) == 70_000


def test_what_zip_keeps() -> None:
    out = io.BytesIO()
    with closing(ZipStream(out)) as stream:
        stream.add(b"d", Node(b"d", NodeType.DIRECTORY, 0o2750, MTIME, uid=7, gid=1 << 31), ())
        stream.finish()
    (info,) = zipfile.ZipFile(out).infolist()
    assert (info.filename, info.create_system) == ("d/", 3)
    assert info.external_attr == (stat.S_IFDIR | 0o2750) << 16 | 0x10
    assert info.date_time == (2020, 9, 13, 12, 26, 40)
    time = b"UT\x05\x00\x01" + (MTIME // 10**9).to_bytes(4, "little")
    owner = b"ux\x0b\x00\x01\x04\x07\x00\x00\x00\x04\x00\x00\x00\x80"
    assert info.extra == time + owner


def test_a_zip_archive_that_was_not_finished_is_none() -> None:
    class Full(io.BytesIO):
        def write(self, data: Buffer, /) -> int:
            if self.tell() > 1200:
                raise OSError("no room")
            return super().write(data)

    node = Node(b"f", NodeType.FILE, 0o600, MTIME, size=1000)
    unfinished, full = io.BytesIO(), Full()
    with closing(ZipStream(unfinished)) as stream:
        stream.add(b"f", node, [b"x" * 1000])
    with closing(ZipStream(full, 0)) as stream:
        stream.add(b"f", node, [b"x" * 1000])
        with pytest.raises(OSError, match="no room") as caught:
            stream.add(b"g", node, [b"x" * 1000])
    assert caught.value.__context__ is None, "it went on after the write that failed"
    for out in (unfinished, full):
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(out)


@pytest.mark.parametrize("form", list(ArchiveFormat))
def test_damage_is_named_and_zero(repository: Repository, form: ArchiveFormat) -> None:
    with Handmade(repository) as made:
        whole = made.make.file(b"f", b"a" * 1000, b"b" * 1000)
        broken = whole._replace(name=b"g", content=(whole.content[0], bytes(32)))
        snapshot = made.snapshot([whole, broken])
    data, result = exported(repository, snapshot, form)
    assert [(f.code, f.subject) for f in result.findings] == [("file_damaged", "g")]
    if form is ArchiveFormat.TAR:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            content = archive.extractfile("g")
            assert content is not None
            assert content.read() == b"a" * 1000 + bytes(1000)
    else:
        assert zipfile.ZipFile(io.BytesIO(data)).read("g") == b"a" * 1000 + bytes(1000)
    with pytest.raises(Damaged):
        exported(repository, snapshot, form, strict=True)


@pytest.mark.parametrize("form", list(ArchiveFormat))
@pytest.mark.parametrize("name", [b"..", b"a/b", b"/etc/passwd", b""])
def test_names_that_lead_out_are_refused(
    repository: Repository, form: ArchiveFormat, name: bytes
) -> None:
    with Handmade(repository) as made:
        snapshot = made.snapshot([made.make.directory(b"d", [made.make.file(name, b"x")])])
    with pytest.raises(PathEscapes):
        exported(repository, snapshot, form)


def test_level_zero_stores(repository: Repository, tmp_path: Path) -> None:
    source = fill(tmp_path / "top", {"x": b"a" * 5000})
    snapshot = save(repository, source)
    packed = []
    for level in (0, 1, 9):
        data, _ = exported(
            repository, snapshot, ArchiveFormat.ZIP, os.fsencode(source), level=level
        )
        info = zipfile.ZipFile(io.BytesIO(data)).getinfo("top/x")
        packed.append(info.compress_size)
        assert zlib.crc32(b"a" * 5000) == info.CRC
    assert packed[0] > 5000 > packed[1] > packed[2]
