# SPDX-License-Identifier: Apache-2.0
"""The few parts of ELF that are needed: headers, segments, notes, dynamic symbols. x86-64 only."""

import bisect
import collections
import os
import struct

Segment = collections.namedtuple("Segment", "type flags offset address physical file_bytes bytes align")
Note = collections.namedtuple("Note", "owner type content where")

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
ET_CORE = 4
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


class NotElf(Exception):
    pass


class Header:
    """The header of an image or a file, read by `read(offset, size)`."""

    def __init__(self, read):
        raw = read(0, _HEADER.size)
        if len(raw) < _HEADER.size or raw[:4] != b"\x7fELF":
            raise NotElf("not an ELF file")
        if raw[4] != 2 or raw[5] != 1:
            raise NotElf("a 32-bit program" if raw[4] == 1 else "not for x86-64")
        fields = _HEADER.unpack(raw)
        self.type, machine = fields[1], fields[2]
        offset, sections, count = fields[5], fields[6], fields[10]
        if machine != 62:
            raise NotElf("not for x86-64")
        if count == 0xFFFF:  # a core of very many mappings: the true number is in section 0
            count = struct.unpack("<I", read(sections + 44, 4))[0]
        raw = read(offset, count * _SEGMENT.size)
        if len(raw) < count * _SEGMENT.size:
            raise NotElf("cut short")
        self.segments = [Segment(*_SEGMENT.unpack_from(raw, i * _SEGMENT.size)) for i in range(count)]

    def of(self, kind):
        return [s for s in self.segments if s.type == kind]


def notes(raw, where=0, align=4):
    """The notes in `raw`; each one's `where` is the address of its content, if `where` is that of raw."""
    align = 8 if align == 8 else 4
    at = 0
    while at + 12 <= len(raw):
        name_bytes, content_bytes, kind = struct.unpack_from("<III", raw, at)
        name_at = at + 12
        content_at = (name_at + name_bytes + align - 1) & -align
        end = content_at + content_bytes
        if end > len(raw):
            return
        owner = raw[name_at : name_at + name_bytes].rstrip(b"\0").decode("latin1")
        yield Note(owner, kind, raw[content_at:end], where + content_at)
        at = (end + align - 1) & -align


def is_in(functions, address):
    """Whether an address is in one of File.functions(). Those of assembly have no length: up to the next one is theirs."""
    i = bisect.bisect_right(functions, (address, 1 << 64)) - 1
    return i >= 0 and (functions[i][1] == 0 or address < sum(functions[i]))


class File:
    """An ELF file on disk: what it needs, what it defines, whether hakmem's note is in it."""

    def __init__(self, path):
        self._file = open(path, "rb")
        try:
            self.header = Header(self._read)
        except NotElf:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._file.close()

    def _read(self, offset, size):
        return os.pread(self._file.fileno(), size, offset)

    def at_address(self, address, size):
        """Bytes of the file by their address in the image; fewer at the end of a segment."""
        for s in self.header.of(PT_LOAD):
            if s.address <= address < s.address + s.file_bytes:
                size = min(size, s.address + s.file_bytes - address)
                return self._read(s.offset + address - s.address, size)
        return b""

    @staticmethod
    def static_address(start, offset, loads):
        """What is to be subtracted from an address of the mapping that begins at `start` and shows the file from `offset`
        on, to get the address that the file's symbols have."""
        for s in loads:
            if s.offset & -4096 <= offset < s.offset + s.file_bytes:
                return start - (s.address + offset - s.offset)
        return start

    def notes(self):
        for s in self.header.of(PT_NOTE):
            yield from notes(self._read(s.offset, s.file_bytes), s.address, s.align)

    def has_note(self):
        return any(n.owner == "hakmem" for n in self.notes())

    def functions(self):
        """(address, bytes) of each function that the file's symbols tell of, by address."""
        raw = self._read(0, _HEADER.size)
        offset, each, count = *struct.unpack_from("<Q", raw, 40), *struct.unpack_from("<HH", raw, 58)
        found = []
        for i in range(count if each == _SECTION.size else 0):
            section = self._read(offset + i * each, each)
            if len(section) < each:
                break
            _name, kind, _flags, _address, at, size, *_rest = _SECTION.unpack(section)
            if kind in (2, 11):  # SHT_SYMTAB, SHT_DYNSYM
                table = self._read(at, size)
                for _name, info, _other, index, value, length in _SYMBOL.iter_unpack(table[: len(table) // 24 * 24]):
                    if info & 15 in (2, 10) and index != 0:  # STT_FUNC, STT_GNU_IFUNC; defined
                        found.append((value, length))
        return sorted(set(found))

    def interpreter(self):
        for s in self.header.of(PT_INTERP):
            return self._read(s.offset, s.file_bytes).rstrip(b"\0").decode()
        return None

    def _dynamic(self):
        found = collections.defaultdict(list)
        for s in self.header.of(PT_DYNAMIC):
            raw = self._read(s.offset, s.file_bytes)
            for at in range(0, len(raw) - 15, 16):
                tag, value = struct.unpack_from("<QQ", raw, at)
                if tag == 0:
                    break
                found[tag].append(value)
        return found

    def _string(self, table, offset):
        return self.at_address(table + offset, 4096).split(b"\0", 1)[0].decode("latin1")

    def needed(self):
        dynamic = self._dynamic()
        return [self._string(dynamic[5][0], value) for value in dynamic.get(1, [])] if 5 in dynamic else []

    def defines(self, wanted):
        """Those of the names in `wanted` that the file's dynamic symbols define."""
        dynamic = self._dynamic()
        if 5 not in dynamic or 6 not in dynamic:
            return set()
        strings, symbols = dynamic[5][0], dynamic[6][0]
        count = self._symbols(dynamic)
        raw = self.at_address(symbols, count * 24)
        names = self.at_address(strings, dynamic[10][0] if 10 in dynamic else 1 << 24)
        found = set()
        for at in range(0, len(raw) - 23, 24):
            name, info, _other, section = struct.unpack_from("<IBBH", raw, at)
            if section != 0 and info >> 4 in (1, 2, 10):
                text = names[name : names.find(b"\0", name)].decode("latin1")
                if text in wanted:
                    found.add(text)
        return found

    def _symbols(self, dynamic):
        if 4 in dynamic:  # DT_HASH: nchain
            return struct.unpack("<I", self.at_address(dynamic[4][0] + 4, 4))[0]
        if 0x6FFFFEF5 not in dynamic:
            return 0
        at = dynamic[0x6FFFFEF5][0]  # DT_GNU_HASH: the chain of the last bucket ends the table
        buckets, first, bloom, _shift = struct.unpack("<IIII", self.at_address(at, 16))
        chains = at + 16 + bloom * 8 + buckets * 4
        raw = self.at_address(at + 16 + bloom * 8, buckets * 4)
        last = max(struct.unpack(f"<{buckets}I", raw), default=0)
        if last < first:
            return first
        while True:
            word = self.at_address(chains + (last - first) * 4, 4)
            if len(word) < 4 or struct.unpack("<I", word)[0] & 1:
                return last + 1
            last += 1
