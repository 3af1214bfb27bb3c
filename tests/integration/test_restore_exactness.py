"""Whole trees, by worker processes: what comes back is what was there, to the last attribute.

Trees are compared entry by entry (`tree_compare.py`); snapshots that restic made are restored
by both programs, named by HOLDFAST_RESTIC_NEW and HOLDFAST_RESTIC_OLD.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from handmade_snapshot import Handmade
from sample_repository import PASSWORD, flip, make, packs_holding, save
from tree_compare import assert_same_tree, describe_tree

from holdfast.flows.export_archive import ArchiveFormat, ExportRequest, export_archive
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository, pack_key
from holdfast.store.local import LocalStore

MIB = 1 << 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def skip_or_fail(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        skip_or_fail(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with one of everything."""
    needs("setfacl", "setcap")
    top = tmp_path_factory.mktemp("exact") / "tree"
    rng = random.Random(7)
    for number in range(300):
        path = top / f"small/{number % 17}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 100, 5000, 30_000))))
        path.chmod(rng.choice((0o600, 0o644, 0o755, 0o444, 0o664, 0o4755, 0o2711, 0o000)))
    (top / "large").write_bytes(rng.randbytes(40 * MIB + 123))
    (top / "middle").write_bytes(rng.randbytes(6 * MIB + 7))
    with (top / "sparse").open("wb") as file:
        file.truncate(70 * MIB)
        file.seek(30 * MIB)
        file.write(rng.randbytes(MIB))
    with (top / "small-sparse").open("wb") as file:
        file.seek(MIB)
        file.write(b"x")
        file.truncate(3 * MIB)
    (top / "only-hole").touch()
    os.truncate(top / "only-hole", 20 * MIB)
    os.link(top / "large", top / "small/large-again")
    os.link(top / "small/3/3", top / "linked")
    (top / "link").symlink_to("small/3/3")
    (top / "dangling").symlink_to(b"\xff\xfe nowhere".decode("utf-8", "surrogateescape"))
    os.lchown(top / "link", 1234, 5678)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.mknod(top / "block", 0o60660, os.makedev(7, 300))
    strange = os.fsencode(top) + b'/n\xc3\xa4me \xff\xfe\n"\\'
    os.mkdir(strange)
    Path(os.fsdecode(strange + b"/\x01\x7f<>&\xe2\x80\xa8")).write_bytes(b"strange")
    (top / ("d" * 255)).mkdir()
    (top / ("d" * 255) / ("f" * 255)).write_bytes(b"long")
    os.setxattr(top / "middle", "user.text", b"value")
    os.setxattr(top / "middle", "user.bytes", bytes(range(256)))
    os.setxattr(top / "small", "user.directory", b"=\n")
    os.setxattr(top / "link", "trusted.on-link", b"1", follow_symlinks=False)
    for arguments in (
        ["setfacl", "-m", "u:1000:rwx,g:50:r", str(top / "linked")],
        ["setfacl", "-m", "d:u:1001:rx", str(top / "small/1")],
        ["setcap", "cap_net_raw+ep", str(top / "small/5/5")],
    ):
        subprocess.run(arguments, check=True)
    os.chown(top / "small/2", 4321, 8765)
    os.chown(top / "middle", 1000, 1000)
    (top / "small/2").chmod(0o1777)
    (top / "closed").mkdir()
    (top / "closed/inside").write_bytes(b"1")
    (top / "closed").chmod(0o000)
    (top / "empty").mkdir()
    _set_times(top, rng)
    return top


def _set_times(top: Path, rng: random.Random) -> None:
    for directory, names, files in os.walk(os.fsencode(top), topdown=False):
        for name in sorted(names + files):
            moment = rng.choice((0, 1, 10**9 - 1, -(10**9) - 5, 2 * 10**18 + 7))
            moment = moment if rng.random() < 0.1 else rng.randrange(10**18, 17 * 10**17)
            os.utime(directory + b"/" + name, ns=(moment, moment), follow_symlinks=False)
    os.utime(top, ns=(10**18 + 3, 10**18 + 3))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_we_stored_comes_back_exactly(tree: Path, tmp_path: Path, workers: int) -> None:
    repository = make(LocalStore(str(tmp_path / "repo")))
    snapshot = save(repository, tree, workers=min(workers, 2))
    request = RestoreRequest(
        snapshot.id,
        os.fsencode(tmp_path / "out"),
        path=os.fsencode(tree),
        workers=workers,
        verify=True,
        root_metadata=True,
    )
    result = restore(repository, request)
    assert not result.findings
    assert_same_tree(tree, tmp_path / "out", holes=True, root_entry=True)
    assert result.counts.verified == sum(
        entry.kind == "file" for entry in describe_tree(tree).values()
    )


def restic_program(variable: str) -> str:
    program = os.environ.get(variable)
    if not program:
        skip_or_fail(f"{variable} does not name a restic program")
        raise AssertionError
    return program


def run_restic(program: str, repository: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [program, "-r", repository, "--no-cache", *arguments],
        env={**os.environ, "RESTIC_PASSWORD": PASSWORD, "TZ": "America/New_York"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("variable", "version"),
    [
        ("HOLDFAST_RESTIC_NEW", "2"),
        ("HOLDFAST_RESTIC_NEW", "1"),
        ("HOLDFAST_RESTIC_OLD", "2"),
        ("HOLDFAST_RESTIC_OLD", "1"),
    ],
)
def test_what_restic_stored_comes_back_as_restic_restores_it(
    tree: Path, tmp_path: Path, variable: str, version: str
) -> None:
    program = restic_program(variable)
    place = tmp_path / "repo"
    run_restic(program, place, "init", "--repository-version", version)
    run_restic(program, place, "backup", tree)
    run_restic(program, place, "restore", "latest", "--target", tmp_path / "theirs")
    repository = Repository.open(LocalStore(str(place)), PASSWORD)
    request = RestoreRequest("latest", os.fsencode(tmp_path / "ours"), workers=2, verify=True)
    result = restore(repository, request)
    assert not result.findings
    theirs, ours = f"{tmp_path}/theirs{tree}", f"{tmp_path}/ours{tree}"
    assert_same_tree(theirs, ours, root_entry=True)
    if variable == "HOLDFAST_RESTIC_NEW":
        # restic 0.14 stores neither link targets that are not UTF-8 nor attributes of links.
        assert_same_tree(tree, ours, root_entry=True)


def test_damage_in_a_pack_is_named_and_zero_with_workers(tree: Path, tmp_path: Path) -> None:
    repository = make(LocalStore(str(tmp_path / "repo")))
    snapshot = save(repository, tree, workers=2)
    index = repository.open_index()
    pack = packs_holding(repository, BlobType.DATA)[0]
    lost = next(blob for found, _, blob in index.blobs() if found == pack)
    path = tmp_path / "repo" / pack_key(pack)
    path.chmod(0o600)
    flip(repository.store, pack_key(pack), lost.offset + 20)
    request = RestoreRequest(
        snapshot.id, os.fsencode(tmp_path / "out"), path=os.fsencode(tree), workers=2
    )
    result = restore(repository, request)
    named = {f.subject.encode() for f in result.findings if f.code == "file_damaged"}
    was, now = describe_tree(tree), describe_tree(tmp_path / "out")
    differing = {name for name in was if was[name].sha256 != now[name].sha256}
    assert named
    # Further names of a damaged file are the same file.
    assert {was[name].names[0] for name in named} == {was[name].names[0] for name in differing}
    for name in differing:
        before = Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).read_bytes()
        after = Path(os.fsdecode(os.fsencode(tmp_path / "out") + b"/" + name)).read_bytes()
        assert len(before) == len(after)
        lost_bytes = 0
        for at in range(0, len(before), 4096):
            block, left = before[at : at + 4096], after[at : at + 4096]
            if block != left:
                assert all(new in (0, old) for old, new in zip(block, left, strict=True))
                lost_bytes += sum(old != new for old, new in zip(block, left, strict=True))
        assert 0 < lost_bytes <= lost.raw_length


def test_an_unprivileged_restore_says_what_is_missing(tree: Path) -> None:
    # Not below pytest's own directories: every session closes them to others again.
    with tempfile.TemporaryDirectory() as base:
        _restore_as_nobody(tree, Path(base))


def _restore_as_nobody(tree: Path, base: Path) -> None:
    place, home = base / "repo", base / "home"
    home.mkdir()
    snapshot = save(make(LocalStore(str(place))), tree)
    subprocess.run(["chown", "-R", "65534:65534", base], check=True)
    script = f"""
import os, multiprocessing.popen_fork, multiprocessing.synchronize
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore
# Only now, because the interpreter may lie where nobody may read.
os.setgroups([]); os.setgid(65534); os.setuid(65534)
repository = Repository.open(LocalStore({str(place)!r}), {PASSWORD!r})
request = RestoreRequest({snapshot.id!r}, {os.fsencode(home / "out")!r},
    path={os.fsencode(tree)!r}, workers=2)
print(*sorted(set(f.code for f in restore(repository, request).findings)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert {"owner_not_restored", "entry_not_restored", "setid_not_restored"} <= set(
        done.stdout.split()
    )
    ignored = {"uid", "gid", "xattrs", "mode", "names"}
    ours = describe_tree(home / "out")
    theirs = {
        path: entry for path, entry in describe_tree(tree).items() if "device" not in entry.kind
    }
    assert ours.keys() == theirs.keys()
    for path, entry in theirs.items():
        for field in {"kind", "mtime_ns", "size", "sha256", "linktarget"} - ignored:
            assert getattr(ours[path], field) == getattr(entry, field), (path, field)


# Archives, judged by other programs


def exported(tree: Path, tmp_path: Path, form: ArchiveFormat, codes: set[str]) -> Path:
    repository = make(LocalStore(str(tmp_path / "repo")))
    snapshot = save(repository, tree, workers=2)
    return archive_of(
        repository, tmp_path, ExportRequest(snapshot.id, os.fsencode(tree), form), codes
    )


def archive_of(
    repository: Repository, tmp_path: Path, request: ExportRequest, codes: set[str]
) -> Path:
    path = tmp_path / f"archive.{request.format}"
    # A pipe cannot seek, nor can what a download is written to.
    ours, theirs = socket.socketpair()
    with path.open("wb") as out, theirs:
        copier = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=out)
        theirs.close()
        with ours, ours.makefile("wb") as sink:
            result = export_archive(repository, request, sink)
        assert copier.wait() == 0
    assert {finding.code for finding in result.findings} == codes
    return path


def test_gnu_tar_and_python_agree_with_an_exported_tar(tree: Path, tmp_path: Path) -> None:
    needs("tar")
    archive = exported(tree, tmp_path, ArchiveFormat.TAR, set())
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        ["tar", "--numeric-owner", "--same-owner", "-p", "--xattrs", "--xattrs-include=*",
         "--acls", "-xf", archive, "-C", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_tree(tree, out / "tree", root_entry=True)
    with tarfile.open(archive) as read:
        names = {os.fsencode(member.name) for member in read}
    wanted = {b"tree"} | {b"tree/" + path for path in describe_tree(tree)}
    assert names == wanted


def test_unzip_and_python_agree_with_an_exported_zip(tree: Path, tmp_path: Path) -> None:
    needs("unzip")
    codes = {"not_in_archive", "attributes_not_in_archive", "name_replaced"}
    archive = exported(tree, tmp_path, ArchiveFormat.ZIP, codes)
    done = subprocess.run(["unzip", "-tq", archive], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = describe_tree(tree)
    with zipfile.ZipFile(archive) as read:
        assert read.testzip() is None
        infos = {info.filename: info for info in read.infolist()}
        for path, entry in found.items():
            try:
                name = "tree/" + path.decode()
            except UnicodeDecodeError:
                continue
            if entry.kind == "file":
                info = infos[name]
                assert info.file_size == entry.size
                assert info.external_attr >> 16 & 0o7777 == entry.mode
            elif entry.kind == "directory":
                assert infos[name + "/"].is_dir()
            elif entry.kind == "symlink":
                assert read.read(name) == entry.linktarget
        assert 'tree/n\u00e4me %FF%FE\n"\\/' in infos


@pytest.mark.slow
def test_a_file_beyond_four_gibibytes_in_a_zip(tmp_path: Path) -> None:
    needs("unzip")
    size = (4 << 30) + (8 << 20)
    repository = make(LocalStore(str(tmp_path / "repo")))
    with Handmade(repository) as made:  # one blob of zeroes, many times
        zeroes = made.make.file(b"huge", bytes(8 << 20))
        huge = zeroes._replace(content=zeroes.content * (size >> 23), size=size)
        snapshot = made.snapshot([huge, made.make.file(b"last", b"behind it")])
    archive = archive_of(
        repository, tmp_path, ExportRequest(snapshot.id, b"", ArchiveFormat.ZIP), set()
    )
    with zipfile.ZipFile(archive) as read:
        assert read.getinfo("huge").file_size == size
        assert read.read("last") == b"behind it"
    done = subprocess.run(["unzip", "-tq", archive], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
