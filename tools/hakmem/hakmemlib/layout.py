# SPDX-License-Identifier: Apache-2.0
"""hakmem's descriptor in a process: what of its state is where (see fronts/descriptor/descriptor.h)."""

import struct

from . import NOT_SERVED, Failure
from .memory import Unreadable

VERSION = 1
_MAGIC = b"hakmem\r\n"
_NUMBER, _VARIABLE, _FIELD = range(3)


class Layout:
    """The rows of one library's descriptor."""

    def __init__(self, memory, where, path):
        self.memory, self.path = memory, path
        raw = memory.read(where, 32)
        magic, self.version, size, self._row_bytes, count, flavour = struct.unpack("<8sIIIIQ", raw)
        if magic != _MAGIC:
            raise Failure(f"{path}: its descriptor is damaged")
        if self.version != VERSION:
            raise Failure(f"{path}: its descriptor is of version {self.version}, and this tool knows {VERSION}: use the tool that came with the library")
        self.flavour = memory.string(flavour)
        self._rows = {}
        for address in struct.unpack(f"<{count}Q", memory.read(where + 32, count * 8)):
            self._rows.update(self.rows_of(address))

    def rows_of(self, address):
        """The rows of one struct hak_layout."""
        variables, constants, v, c = struct.unpack("<QQII", self.memory.read(address, 24))
        found = {}
        for at, count in ((variables, v), (constants, c)):
            raw = self.memory.read(at, count * self._row_bytes) if count else b""
            for i in range(count):
                name, kind, size, value = struct.unpack_from("<24sIIQ", raw, i * self._row_bytes)
                found[name.rstrip(b"\0").decode()] = (kind, size, value)
        return found

    def add(self, rows):
        self._rows.update(rows)

    def __contains__(self, name):
        return name in self._rows

    def _row(self, name, kind):
        row = self._rows.get(name)
        if row is None or row[0] != kind:
            raise Failure(f"{self.path}: its descriptor has no {name}; use the tool that came with the library")
        return row

    def number(self, name):
        return self._row(name, _NUMBER)[2]

    def offset(self, name):
        return self._row(name, _FIELD)[2]

    def size(self, name):
        return self._rows[name][1]

    def address(self, name):
        return self._row(name, _VARIABLE)[2]

    def variable(self, name):
        """The value of a variable of up to 8 bytes."""
        _, size, address = self._row(name, _VARIABLE)
        return self.memory.number(address, size)

    def bytes_of(self, name, most=None):
        _, size, address = self._row(name, _VARIABLE)
        return self.memory.read(address, size if most is None else min(size, most))

    def field(self, raw, name, base=0):
        """The value of a field of a structure that starts at raw[base]."""
        _, size, offset = self._row(name, _FIELD)
        return int.from_bytes(raw[base + offset : base + offset + size], "little")


def find(memory):
    """The layout of the library that serves the process."""
    broken = None
    seen = False
    for where, path in memory.descriptors():
        seen = True
        try:
            layout = Layout(memory, where, path)
            if layout.variable("process.serves"):
                return layout
        except Unreadable as error:
            broken = f"{path}: its data at {error} is not there"
    who = f"{memory.path}" if memory.is_core else f"process {memory.pid} ({memory.name})"
    cut = memory.cut() if memory.is_core else None
    if cut and (broken or not seen):
        raise Failure(f"{who}: {cut}")
    if broken:
        missing = memory.missing_files() if memory.is_core else []
        raise Failure(f"{who}: {broken}" + (f"; the file {missing[0]} is needed" if missing else ""))
    if seen:
        raise Failure(f"{who} has hakmem, but is not served by it, or has not started yet", NOT_SERVED)
    if memory.is_core and memory.missing_files():
        raise Failure(f"{who} is not served by hakmem, as far as can be seen without {', '.join(memory.missing_files())}", NOT_SERVED)
    raise Failure(f"{who} is not served by hakmem; start it with `hakmem run`", NOT_SERVED)
