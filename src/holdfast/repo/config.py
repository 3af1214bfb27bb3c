"""The repository's ``config``: its format version, its identity, restic's chunker polynomial.

Holdfast cuts files by its own rule and never uses the polynomial, but restic refuses a
repository without an irreducible one of degree 53, and uses it when it writes beside us.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass

import orjson

from holdfast.errors import Damaged, NewerVersion

NEWEST_VERSION = 2
_POLYNOMIAL_DEGREE = 53


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """What ``config`` says. `version` is 1 or 2; `id` is 64 hexadecimal digits."""

    version: int
    id: str
    chunker_polynomial: str

    @classmethod
    def new(cls, version: int = NEWEST_VERSION) -> RepositoryConfig:
        return cls(version, os.urandom(32).hex(), f"{random_irreducible_polynomial():x}")

    @classmethod
    def from_json(cls, text: bytes) -> RepositoryConfig:
        try:
            document = orjson.loads(text)
            config = cls(
                int(document["version"]),
                str(document["id"]),
                str(document["chunker_polynomial"]),
            )
        except (KeyError, ValueError, TypeError):
            raise Damaged("the repository's config opens, but is not a config document") from None
        if config.version > NEWEST_VERSION or config.version < 1:
            raise NewerVersion(
                f"the repository has format version {config.version}; this program knows 1 and "
                f"{NEWEST_VERSION}. Use a newer Holdfast"
            )
        return config

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "version": self.version,
                "id": self.id,
                "chunker_polynomial": self.chunker_polynomial,
            }
        )


def _modulo(value: int, divisor: int) -> int:
    degree = divisor.bit_length()
    while value.bit_length() >= degree:
        value ^= divisor << (value.bit_length() - degree)
    return value


def _multiply_modulo(left: int, right: int, divisor: int) -> int:
    product = 0
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        right >>= 1
    return _modulo(product, divisor)


def _greatest_common_divisor(left: int, right: int) -> int:
    while right:
        left, right = right, _modulo(left, right)
    return left


def is_irreducible(polynomial: int) -> bool:
    """Whether a polynomial over GF(2), one bit per coefficient, has no proper factor.

    Ben-Or's test: no factor of degree i divides ``x^(2^i) - x`` for i up to half the degree.
    """
    power = 2
    for _ in range((polynomial.bit_length() - 1) // 2):
        power = _multiply_modulo(power, power, polynomial)
        if _greatest_common_divisor(polynomial, power ^ 2) != 1:
            return False
    return True


def random_irreducible_polynomial() -> int:
    """Return a random irreducible polynomial of degree 53; one in about 53 tries is."""
    while True:
        candidate = secrets.randbits(_POLYNOMIAL_DEGREE) | 1 << _POLYNOMIAL_DEGREE | 1
        if is_irreducible(candidate):
            return candidate
