# SPDX-License-Identifier: BSD-2-Clause
# cython: language_level=3, embedsignature=False
"""The boundary to C: checks every argument, owns memory, turns -errno into exceptions.

Each class has one writer: call its methods from one thread at a time. `SessionTable.find_burst`
may run in any thread beside the writer.
"""

import os
import weakref
from array import array
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINVAL
from libc.string cimport memcpy, memset

cdef enum:
    XG_HOST_ABSENT = 65534  # above every host id, below the mark "unowned"
    FRAMES_WITHOUT_END = 0xffffffff  # that a forwarder without rings has for fragments

ABSENT = XG_HOST_ABSENT  # find_burst: no valid entry
UNOWNED = XG_HOST_UNOWNED  # find_burst and get: the mark "no host has this session"
LINGER = XG_META_LINGER  # flag: closed, kept for the last packets
SERVICE_UNKNOWN = XG_SERVICE_UNKNOWN  # in a translation: not a service of this host
OWNER_STATES_BYTES = XG_OWNERS * sizeof(xg_owner_state)
EVENT_BYTES = sizeof(xg_event)
HASH_KEY_BYTES = 16
LAYOUT_DIGEST = XG_LAYOUT_DIGEST  # of every header that says what lies in the BPF maps

# Epochs have 8 bits. After this many of one owner's changes every table is swept, so that no
# entry lives to see its epoch again; the few left over pay for the previous epoch's entries.
EPOCHS_BETWEEN_SWEEPS = 250

# All that one call of encode can have to say: an ending and an OPEN of each session, 6 headers.
ENCODE_MAX = XG_BATCH_MAX * 2 * XG_RECORD6_LEN + 6 * XG_SECTION_HEADER_LEN
SECTION_MIN = XG_RECORD6_LEN + XG_SECTION_HEADER_LEN  # one record of the larger kind
DIGEST_BUCKETS = 1024  # 8 KiB an owner; one bucket of a million sessions fits a datagram six times
STATEMENTS = 16384  # 1.3 MiB: conflicts, and what closed while batches were missing
SECTION_MAX = 65535 + XG_SECTION_HEADER_LEN  # a section's length field has 16 bits


# ---- arguments ----

cdef int check(int rc) except -1:
    """The only place where a C return code becomes an exception."""
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


cdef const u8[::1] octets(object data):
    """Any contiguous buffer as octets."""
    if type(data) is bytes:
        return data
    return memoryview(data).cast("B")


cdef const u8 *start(const u8[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef int need(object name, Py_ssize_t length, Py_ssize_t expected) except -1:
    if length != expected:
        raise ValueError(f"{name} is {length} bytes, expected {expected}")
    return 0


cdef u16 host_of(object host, bint unowned_allowed=False) except? 0:
    if not 0 <= host <= XG_HOST_MAX and not (unowned_allowed and host == XG_HOST_UNOWNED):
        raise ValueError(f"host is {host}, expected 0..{XG_HOST_MAX}")
    return host


cdef u32 low32(object number) except? 0:
    """Times and log positions are compared modulo 2^32."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number & 0xFFFFFFFF


cdef u16 u16_of(object name, object number) except? 0:
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"{name} is {number}, expected 0..65535")
    return number


def pack_key4(address not None, port, slot):
    """Key of an IPv4 session.

    Args:
        address: (4,) bytes of the client, network order.
        port: of the client, 0..65535.
        slot: of the service on this host, 0..65535.

    Returns:
        (8,) bytes, `struct xg_key4`.

    Raises:
        ValueError: a length or a range is wrong.
    """
    cdef const u8[::1] view = octets(address)
    need("IPv4 address", view.shape[0], 4)
    return (bytes(view) + u16_of("port", port).to_bytes(2, "big")
            + u16_of("slot", slot).to_bytes(2, "little"))


def pack_key6(address not None, port, slot):
    """Key of an IPv6 session: (16,) bytes address in, (24,) bytes `struct xg_key6` out.

    Raises:
        ValueError: a length or a range is wrong.
    """
    cdef const u8[::1] view = octets(address)
    need("IPv6 address", view.shape[0], 16)
    return (bytes(view) + u16_of("port", port).to_bytes(2, "big")
            + u16_of("slot", slot).to_bytes(2, "little") + bytes(4))


def session_hash(hash_key not None, key not None):
    """SipHash-1-3 of a key: the low 32 bits choose the buckets, the high ones are the check.

    Args:
        hash_key: (16,) bytes.
        key: (8,) or (24,) bytes.

    Raises:
        ValueError: a length is wrong.

    Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012.
    """
    cdef const u8[::1] secret = octets(hash_key)
    cdef const u8[::1] view = octets(key)
    cdef u64 words[XG_KEY_WORDS_MAX]
    cdef u64 secret_words[2]
    need("hash key", secret.shape[0], HASH_KEY_BYTES)
    memcpy(secret_words, &secret[0], sizeof(secret_words))
    if view.shape[0] == 8:
        memcpy(words, &view[0], 8)
        return xg_hash4(secret_words, words[0])
    need("key", view.shape[0], 24)
    memcpy(words, &view[0], 24)
    return xg_hash6(secret_words, words)


include "_native_table.pxi"


include "_native_block.pxi"
include "_native_log.pxi"
include "_native_quic.pxi"
include "_native_packets.pxi"
include "_native_loop.pxi"
include "_native_explain.pxi"
include "_native_datagrams.pxi"
