"""Sealing: what comes back is exactly what went in, or `Damaged`; no nonce comes twice."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from sample_repository import CHEAP

from holdfast.errors import Damaged
from holdfast.repo.crypto import IV_BYTES, OVERHEAD_BYTES, MasterKey, Sealer
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

KEY = MasterKey(bytes(range(32)), bytes(range(16)), bytes(range(100, 116)))
RESTIC_PASSWORD = "pw"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000, 1 << 20])
def test_what_was_sealed_opens(size: int) -> None:
    plain = os.urandom(size)
    sealed = Sealer(KEY).seal(plain)
    assert len(sealed) == size + OVERHEAD_BYTES
    assert Sealer(KEY).open(sealed, "it") == plain


def test_one_sealer_seals_and_opens_many_messages_in_any_order() -> None:
    sealer = Sealer(KEY)
    messages = [os.urandom(n % 50) for n in range(600)]
    sealed = [sealer.seal(message) for message in messages]
    for message, box in reversed(list(zip(messages, sealed, strict=True))):
        assert sealer.open(memoryview(box), "it") == message


def test_sealing_into_a_longer_buffer_leaves_what_lies_behind() -> None:
    room = bytearray(b"\xaa" * 200)
    length = Sealer(KEY).seal_into(b"some text", memoryview(room))
    assert Sealer(KEY).open(room[:length], "it") == b"some text"
    assert room[length:] == b"\xaa" * (200 - length)


def test_the_code_is_poly1305_aes_over_the_ciphertext_as_the_format_says() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    sealed = Sealer(KEY).seal(b"")
    iv, tag = sealed[:16], sealed[16:]
    block = Cipher(algorithms.AES(KEY.mac_k), modes.ECB()).encryptor().update(iv)
    # Poly1305 of nothing is the second half of its key alone.
    assert tag == block


def test_a_change_of_any_byte_is_damage() -> None:
    sealed = Sealer(KEY).seal(b"twenty bytes of text")
    for at in range(len(sealed)):
        for bit in (0x01, 0x80):
            changed = bytearray(sealed)
            changed[at] ^= bit
            with pytest.raises(Damaged, match="the box is damaged"):
                Sealer(KEY).open(changed, "the box")


def test_a_truncated_or_lengthened_message_is_damage() -> None:
    sealed = Sealer(KEY).seal(b"twenty bytes of text")
    for end in range(len(sealed)):
        with pytest.raises(Damaged, match="the box is"):
            Sealer(KEY).open(sealed[:end], "the box")
    with pytest.raises(Damaged):
        Sealer(KEY).open(sealed + b"\0", "the box")


def test_another_key_opens_nothing() -> None:
    sealed = Sealer(KEY).seal(b"text")
    for key in (
        MasterKey.random(),
        MasterKey(KEY.encrypt, bytes(16), KEY.mac_r),
        MasterKey(KEY.encrypt, KEY.mac_k, bytes(16)),
    ):
        with pytest.raises(Damaged):
            Sealer(key).open(sealed, "it")


def test_no_nonce_comes_twice() -> None:
    sealer = Sealer(KEY)
    nonces = [sealer.seal(b"")[:IV_BYTES] for _ in range(2000)]
    assert len(set(nonces)) == len(nonces)


def test_a_forked_child_shares_no_nonce_with_its_parent() -> None:
    sealer = Sealer(KEY)
    sealer.seal(b"")  # now nonces lie ready, and the fork copies them
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, b"".join(sealer.seal(b"")[:IV_BYTES] for _ in range(300)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    theirs = {raw[at : at + IV_BYTES] for at in range(0, len(raw), IV_BYTES)}
    ours = {sealer.seal(b"")[:IV_BYTES] for _ in range(300)}
    assert len(theirs) == len(ours) == 300
    assert ours.isdisjoint(theirs)


def test_a_master_key_survives_json_and_is_never_shown() -> None:
    key = MasterKey.random()
    assert MasterKey.from_json(key.to_json()) == key
    assert repr(key) == "MasterKey()"
    assert MasterKey.from_bytes(key.encrypt + key.mac_k + key.mac_r) == key


@pytest.mark.parametrize("change", [(16, 16, 16), (32, 15, 16), (32, 16, 0)])
def test_a_master_key_of_another_length_is_refused(change: tuple[int, int, int]) -> None:
    text = MasterKey(*map(bytes, change)).to_json()
    with pytest.raises(ValueError, match="length"):
        MasterKey.from_json(text)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_repository_that_restic_made_opens(tmp_path: Path, version: str) -> None:
    program = os.environ.get("HOLDFAST_RESTIC_NEW")
    if not program:
        reason = "HOLDFAST_RESTIC_NEW does not name a restic program"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    path = tmp_path / "repo"
    subprocess.run(
        [program, "-r", path, "--no-cache", "init", "--repository-version", version],
        env={**os.environ, "RESTIC_PASSWORD": RESTIC_PASSWORD},
        check=True,
        capture_output=True,
    )
    repository = Repository.open(LocalStore(str(path)), RESTIC_PASSWORD)
    assert repository.config.version == int(version)
    ours = Repository.create(LocalStore(str(tmp_path / "ours")), RESTIC_PASSWORD, scrypt=CHEAP)
    shown = subprocess.run(
        [program, "-r", tmp_path / "ours", "--no-cache", "cat", "config"],
        env={**os.environ, "RESTIC_PASSWORD": RESTIC_PASSWORD},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ours.config.id in shown.stdout
