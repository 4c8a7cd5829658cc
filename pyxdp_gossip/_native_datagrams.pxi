# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: datagrams of a UDP socket, many a system call.

DATAGRAM_ROOM = XG_DATAGRAM_ROOM

cdef enum:
    SOURCES_KEPT = 4096  # more than a POP has hosts; then the names are made anew


cdef class DatagramReader:
    """Reads what waits in one UDP socket.

    Args:
        fd: the socket's descriptor, which stays the caller's.

    Raises:
        MemoryError: no room for a burst.
    """

    cdef xg_datagram_reader *_reader
    cdef int _fd
    cdef dict _sources

    def __cinit__(self, int fd):
        check(xg_datagram_reader_create(&self._reader))
        self._fd = fd
        self._sources = {}

    def __dealloc__(self):
        xg_datagram_reader_destroy(self._reader)

    def read(self, unsigned int most):
        """At most `most` datagrams, and never more than 64, with their sources.

        Returns:
            (data, (address, port)), in the order in which they came; empty if none waits. A
            datagram of more than `DATAGRAM_ROOM` bytes is cut to those.

        Raises:
            OSError: what the kernel reports instead of a datagram.
        """
        cdef xg_datagram datagram
        cdef int count
        cdef list received = []
        with nogil:
            count = xg_datagram_reader_read(self._reader, self._fd, most)
        check(count)
        for i in range(count):
            datagram = xg_datagram_reader_get(self._reader, i)
            received.append((PyBytes_FromStringAndSize(<char *>datagram.data, datagram.len),
                             self._name(&datagram.source)))
        return received

    cdef tuple _name(self, const xg_source *source):
        cdef bytes key = PyBytes_FromStringAndSize(<char *>source, sizeof(xg_source))
        name = self._sources.get(key)
        if name is None:
            if len(self._sources) == SOURCES_KEPT:
                self._sources.clear()
            family, length = (AF_INET, 4) if source.family == 4 else (AF_INET6, 16)
            name = self._sources[key] = inet_ntop(family, key[:length]), source.port
        return name

    @property
    def overflows(self):
        """Datagrams that the kernel dropped for want of room, as it said with the last one; of a
        socket with SO_RXQ_OVFL."""
        return xg_datagram_reader_overflows(self._reader)
