# SPDX-License-Identifier: BSD-2-Clause
"""Captures, pcap and pcapng: bursts of Ethernet frames in, frames out, in constant memory.

By libpcap, which reads hostile files for tcpdump and Wireshark, and names what is wrong with one;
the pure Python readers hide a cut frame's length, or know one of the two formats only.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import cffi

from pyxdp_gossip.errors import ConfigError, HostError

LIBRARIES: Final = ("libpcap.so.0.8", "libpcap.so.1")  # Debian's name, and upstream's
ETHERNET: Final = 1  # LINKTYPE_ETHERNET, https://www.tcpdump.org/linktypes.html
NANOSECONDS: Final = 1  # PCAP_TSTAMP_PRECISION_NANO
SNAP_LEN: Final = 262144  # MAXIMUM_SNAPLEN: no frame that libpcap reads is longer
ERROR_BYTES: Final = 256  # PCAP_ERRBUF_SIZE

_ffi = cffi.FFI()
_ffi.cdef(
    """
    typedef struct pcap pcap_t;
    typedef struct pcap_dumper pcap_dumper_t;
    struct pcap_pkthdr { long seconds; long fraction; uint32_t caplen; uint32_t len; };
    pcap_t *pcap_open_offline_with_tstamp_precision(const char *, unsigned int, char *);
    pcap_t *pcap_open_dead_with_tstamp_precision(int, int, unsigned int);
    int pcap_next_ex(pcap_t *, struct pcap_pkthdr **, const unsigned char **);
    int pcap_datalink(pcap_t *);
    const char *pcap_datalink_val_to_name(int);
    char *pcap_geterr(pcap_t *);
    void pcap_close(pcap_t *);
    pcap_dumper_t *pcap_dump_open(pcap_t *, const char *);
    void pcap_dump(unsigned char *, const struct pcap_pkthdr *, const unsigned char *);
    int pcap_dump_flush(pcap_dumper_t *);
    void *pcap_dump_file(pcap_dumper_t *);
    void pcap_dump_close(pcap_dumper_t *);
    int ferror(void *);
    """
)
_loaded: list[Any] = []


def _libpcap() -> Any:
    """The library, looked for on first use: what needs no capture needs no libpcap."""
    for name in LIBRARIES if not _loaded else ():
        try:
            _loaded.append(_ffi.dlopen(name))
            break
        except OSError:
            continue
    if not _loaded:
        raise HostError("libpcap is not installed: apt-get install libpcap0.8")
    return _loaded[0]


class Captured(NamedTuple):
    """One frame of a capture.

    Attributes:
        frame: what was captured of it, from the Ethernet header on.
        wire_len: bytes that it had on the wire; more than len(frame): the capture cut it.
        at: (seconds, nanoseconds) since 1970.
    """

    frame: bytes
    wire_len: int
    at: tuple[int, int]

    @property
    def is_cut(self) -> bool:
        return len(self.frame) < self.wire_len


class Capture:
    """Reads a capture file; `-` is standard input.

    Attributes:
        damage: what libpcap says of the place where it had to stop reading; "": none so far.

    Args:
        path: of a pcap or pcapng file.

    Raises:
        ConfigError: it cannot be read, is no capture, or is not of Ethernet frames.
        HostError: libpcap is missing.
    """

    def __init__(self, path: Path) -> None:
        self._lib = _libpcap()
        self._ended = False
        self.damage = ""
        said = _ffi.new("char[]", ERROR_BYTES)
        if path.is_dir():  # libpcap opens it, and then says little
            raise ConfigError(f"{path}: is a folder, expected a pcap or pcapng file")
        self._handle = self._lib.pcap_open_offline_with_tstamp_precision(
            os.fsencode(path), NANOSECONDS, said
        )
        if self._handle == _ffi.NULL:
            reason = _line(said).removeprefix(f"{path}: ")
            raise ConfigError(f"{path}: {reason}; expected a pcap or pcapng file")
        kind = self._lib.pcap_datalink(self._handle)
        if kind != ETHERNET:
            name = self._lib.pcap_datalink_val_to_name(kind)
            shown = str(kind) if name == _ffi.NULL else _line(name)
            self.close()
            raise ConfigError(
                f"{path}: its frames are of link type {shown}, expected Ethernet (EN10MB): "
                "capture on one interface, not on `any`"
            )
        self._header = _ffi.new("struct pcap_pkthdr **")
        self._data = _ffi.new("const unsigned char **")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Repeatable."""
        if self._handle != _ffi.NULL:
            self._lib.pcap_close(self._handle)
            self._handle = _ffi.NULL

    def read(self, limit: int) -> list[Captured]:
        """The next frames, at most `limit`; none: this was the end, or `damage` says what came."""
        found: list[Captured] = []
        header, data, buffer = self._header, self._data, _ffi.buffer
        while len(found) < limit and not self._ended:
            rc = self._lib.pcap_next_ex(self._handle, header, data)
            if rc != 1:
                self._ended = True
                self.damage = _line(self._lib.pcap_geterr(self._handle)) if rc == -1 else ""
                break
            one = header[0]
            frame = bytes(buffer(data[0], one.caplen))
            found.append(Captured(frame, one.len, (one.seconds, one.fraction)))
        return found


class CaptureWriter:
    """Writes Ethernet frames to a pcap file, with nanoseconds.

    Raises:
        ConfigError: the file cannot be written.
        HostError: libpcap is missing.
    """

    def __init__(self, path: Path) -> None:
        self._lib = _libpcap()
        self._path = path
        self._handle = self._lib.pcap_open_dead_with_tstamp_precision(
            ETHERNET, SNAP_LEN, NANOSECONDS
        )
        self._file = self._lib.pcap_dump_open(self._handle, os.fsencode(path))
        if self._file == _ffi.NULL:
            said = _line(self._lib.pcap_geterr(self._handle)).removeprefix(f"{path}: ")
            self._lib.pcap_close(self._handle)
            raise ConfigError(f"{path}: {said}; name another file")
        self._header: Any = _ffi.new("struct pcap_pkthdr *")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        failed = self._lib.pcap_dump_flush(self._file) != 0
        failed = failed or self._lib.ferror(self._lib.pcap_dump_file(self._file)) != 0
        self._lib.pcap_dump_close(self._file)
        self._lib.pcap_close(self._handle)
        if failed and kind is None:
            raise ConfigError(f"{self._path}: not all of it could be written; is the disk full?")

    def write(self, frame: bytes, at: tuple[int, int]) -> None:
        """One frame, captured at this time."""
        header = self._header
        header.seconds, header.fraction = at
        header.caplen = header.len = len(frame)
        self._lib.pcap_dump(_ffi.cast("unsigned char *", self._file), header, frame)


def _line(text: Any) -> str:
    said: Any = _ffi.string(text)
    return " ".join(said.decode(errors="replace").split())
