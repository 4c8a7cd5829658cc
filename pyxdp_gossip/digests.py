# SPDX-License-Identifier: BSD-2-Clause
"""SHA-256 by the `cryptography` package: `hashlib` would load a second OpenSSL, of 3 MB."""

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.hmac import HMAC


def sha256(data: bytes) -> bytes:
    """(32,) bytes. Source: FIPS 180-4."""
    digest = Hash(SHA256())
    digest.update(data)
    return digest.finalize()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """(32,) bytes. Source: RFC 2104."""
    code = HMAC(key, SHA256())
    code.update(data)
    return code.finalize()
