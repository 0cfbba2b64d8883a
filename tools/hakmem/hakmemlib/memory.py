# SPDX-License-Identifier: Apache-2.0
"""Memory of a process that runs, or of one that has left a core file, read from outside.

A process is not stopped and does nothing for it: its memory is read by process_vm_readv(2). What is read together may be
of different moments; a caller checks the values that matter."""

import bisect
import collections
import ctypes
import errno
import mmap
import os
import pwd
import struct

from . import NO_PERMISSION, NO_TARGET, Failure, elf

Mapping = collections.namedtuple("Mapping", "start end rights offset path inode")
Image = collections.namedtuple("Image", "path start bias header")

_PAGE = 4096


class Unreadable(Exception):
    """An address that is not mapped, or is not in the core file."""


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]


class Memory:
    """The functions that processes and core files share. Each has read(), mappings(), name and pid of its own."""

    is_core = False

    def resident(self, start, pages):
        """A byte for each page, not 0 if the page has memory; None if that is not known."""
        return None

    def number(self, address, size=8):
        return int.from_bytes(self.read(address, size), "little")

    def string(self, address, most=256):
        raw = b""
        while len(raw) < most and b"\0" not in raw:
            raw += self.read(address + len(raw), min(64, _PAGE - (address + len(raw)) % _PAGE))
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def read_many(self, ranges):
        """The bytes of each (address, size); None for what cannot be read."""
        found = []
        for address, size in ranges:
            try:
                found.append(self.read(address, size))
            except Unreadable:
                found.append(None)
        return found

    def images(self):
        """The ELF files that are mapped, from their first bytes in memory."""
        for m in self.mappings():
            if m.offset != 0 or not m.path.startswith("/") or m.inode == 0:
                continue
            try:
                header = elf.Header(lambda offset, size, m=m: self.read(m.start + offset, size))
            except (elf.NotElf, Unreadable):
                continue
            loads = header.of(elf.PT_LOAD)
            if header.type == elf.ET_CORE or not loads:
                continue
            yield Image(m.path, m.start, m.start - (loads[0].address & -_PAGE), header)

    def image_notes(self, image):
        for s in image.header.of(elf.PT_NOTE):
            where = image.bias + s.address
            try:
                yield from elf.notes(self.read(where, s.file_bytes), where, s.align)
            except Unreadable:
                pass

    def descriptors(self):
        """(address, path) of each of hakmem's descriptors in the process."""
        for image in self.images():
            for note in self.image_notes(image):
                if note.owner == "hakmem" and note.type == 1 and len(note.content) == 8:
                    yield note.where + int.from_bytes(note.content, "little", signed=True), image.path


class Process(Memory):
    def __init__(self, pid):
        self.pid = pid
        self._proc = f"/proc/{pid}"
        if not os.path.isdir(self._proc):
            raise Failure(f"no process {pid}", NO_TARGET)
        self.name = self._text("comm").strip()
        self._is_alive()

    def _is_alive(self):
        """Fails if the process has ended: its parent may not have asked for its exit status yet."""
        if self._text("stat").rsplit(")", 1)[-1].split()[:1] in (["Z"], ["X"]):
            raise Failure(f"process {self.pid} has ended", NO_TARGET)

    def _text(self, name):
        try:
            with open(f"{self._proc}/{name}", errors="replace") as file:
                return file.read()
        except (FileNotFoundError, ProcessLookupError):
            raise Failure(f"process {self.pid} has ended", NO_TARGET) from None
        except PermissionError:
            raise self._refused() from None

    def _refused(self):
        return Failure(f"may not read process {self.pid}: {self._why()}", NO_PERMISSION)

    def _why(self):
        try:
            owner = os.stat(self._proc).st_uid
            with open(f"{self._proc}/status", errors="replace") as file:
                uid = int(next(line for line in file if line.startswith("Uid:")).split()[1])
        except (OSError, StopIteration):
            return "it has ended"
        if uid != os.geteuid() and os.geteuid() != 0:
            try:
                user = pwd.getpwuid(uid).pw_name
            except KeyError:
                user = f"user {uid}"
            return f"it is {user}'s; run this as root" + (f" or as {user}" if uid != 0 else "")
        scope = "0"
        try:
            with open("/proc/sys/kernel/yama/ptrace_scope") as file:
                scope = file.read().strip()
        except OSError:
            pass
        if scope == "1" and os.geteuid() != 0:
            return (
                "kernel.yama.ptrace_scope is 1, which lets a process be read by its parents and by root only; run this as"
                " root, or allow it with `sysctl kernel.yama.ptrace_scope=0`"
            )
        if scope == "2" and os.geteuid() != 0:
            return "kernel.yama.ptrace_scope is 2: only root may; run this as root"
        if scope == "3":
            return "kernel.yama.ptrace_scope is 3, which lets nobody, until the machine starts again; take a core file"
        if owner != uid:
            return "it is set-user-ID, or has declared itself not dumpable; run this as root"
        return "this process lacks CAP_SYS_PTRACE (in a container: --cap-add SYS_PTRACE), or a security module forbids it"

    def mappings(self):
        text = self._text("maps")
        if not text:
            self._is_alive()
        for line in text.splitlines():
            fields = line.split(None, 5)
            start, end = (int(x, 16) for x in fields[0].split("-"))
            path = fields[5] if len(fields) > 5 else ""
            yield Mapping(start, end, fields[1], int(fields[2], 16), path, int(fields[4]))

    def read(self, address, size):
        found = self.read_many([(address, size)])[0]
        if found is None:
            raise Unreadable(f"{address:#x}")
        return found

    def read_many(self, ranges):
        found = []
        at = 0
        while at < len(ranges):
            # As many ranges as one call takes, but no more bytes than are good for this process.
            end, total = at, 0
            while end < len(ranges) and end - at < 1024 and (end == at or total + ranges[end][1] <= 4 << 20):
                total += ranges[end][1]
                end += 1
            found += self._read_some(ranges[at:end], total)
            at = end
        return found

    def _read_some(self, ranges, total):
        if total == 0:
            return [b""] * len(ranges)
        buffer = ctypes.create_string_buffer(total)
        remote = (_Iovec * len(ranges))(*[_Iovec(address, size) for address, size in ranges])
        local = _Iovec(ctypes.addressof(buffer), total)
        got = _libc.process_vm_readv(self.pid, ctypes.byref(local), 1, remote, len(ranges), 0)
        if got < 0:
            code = ctypes.get_errno()
            if code == errno.EPERM:
                raise self._refused()
            if code == errno.ESRCH:
                raise Failure(f"process {self.pid} has ended", NO_TARGET)
            if code == errno.ENOSYS:
                raise Failure("the kernel has no process_vm_readv(2), or a sandbox forbids it", NO_PERMISSION)
            got = 0
        raw = buffer.raw
        found, at = [], 0
        for address, size in ranges:
            if at + size <= got:
                found.append(raw[at : at + size])
                at += size
            else:
                break
        if len(found) < len(ranges):  # this one cannot be read; go on behind it
            found.append(None)
            rest = ranges[len(found) :]
            if rest:
                found += self._read_some(rest, sum(size for _, size in rest))
        return found

    def status(self):
        """Lines of /proc/PID/status as a dictionary; sizes in bytes."""
        found = {}
        for line in self._text("status").splitlines():
            key, _, value = line.partition(":")
            words = value.split()
            found[key] = int(words[0]) * 1024 if len(words) == 2 and words[1] == "kB" else value.strip()
        return found

    def uptime(self):
        """Seconds since it started."""
        ticks = int(self._text("stat").rsplit(")", 1)[1].split()[19])
        with open("/proc/uptime") as file:
            return float(file.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")

    def resident(self, start, pages):
        try:
            with open(f"{self._proc}/pagemap", "rb") as file:
                raw = os.pread(file.fileno(), pages * 8, start // _PAGE * 8)
        except OSError:
            return None
        words = struct.unpack(f"<{len(raw) // 8}Q", raw)
        return bytes(word >> 62 != 0 for word in words) + bytes(pages - len(words))


class Core(Memory):
    """A core file of the kernel or of gdb's gcore. What it leaves out of files is read from these, if they are there."""

    is_core = True

    def __init__(self, path):
        self.path = path
        self.pid = None
        self.name = os.path.basename(path)
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise Failure(f"no such file: {path}", NO_TARGET) from None
        except PermissionError:
            raise Failure(f"may not read {path}", NO_PERMISSION) from None
        except (OSError, ValueError) as error:
            raise Failure(f"{path}: {error}") from None
        try:
            self.header = elf.Header(lambda offset, size: self._map[offset : offset + size])
        except elf.NotElf as error:
            raise Failure(f"{path}: {error}", NO_TARGET) from None
        if self.header.type != elf.ET_CORE:
            raise Failure(f"{path}: an ELF file, but not a core file", NO_TARGET)
        self._loads = sorted(self.header.of(elf.PT_LOAD), key=lambda s: s.address)
        self.whole_bytes = max((s.offset + s.file_bytes for s in self.header.segments), default=0)
        self._starts = [s.address for s in self._loads]
        self._files = []
        self._opened = {}
        try:
            for s in self.header.of(elf.PT_NOTE):
                for note in elf.notes(self._map[s.offset : s.offset + s.file_bytes]):
                    self._look_at(note)
        except (struct.error, LookupError):
            raise Failure(f"{path}: its notes are damaged", NO_TARGET) from None

    def _look_at(self, note):
        if note.owner != "CORE":
            return
        if note.type == 3 and len(note.content) >= 136:  # NT_PRPSINFO
            self.pid = struct.unpack_from("<i", note.content, 24)[0]
            self.name = note.content[40:56].split(b"\0", 1)[0].decode("latin1")
        if note.type == 0x46494C45:  # NT_FILE
            count, page = struct.unpack_from("<QQ", note.content, 0)
            names = note.content[16 + 24 * count :].split(b"\0")
            for i in range(count):
                start, end, offset = struct.unpack_from("<QQQ", note.content, 16 + 24 * i)
                self._files.append(Mapping(start, end, "", offset * page, os.fsdecode(names[i]), 1))

    def mappings(self):
        return self._files

    def read(self, address, size):
        parts = []
        while size > 0:
            part = self._in_core(address, size) or self._in_file(address, size)
            if not part:
                raise Unreadable(f"{address:#x}")
            parts.append(part)
            address += len(part)
            size -= len(part)
        return b"".join(parts)

    def _in_core(self, address, size):
        i = bisect.bisect_right(self._starts, address) - 1
        if i < 0:
            return b""
        s = self._loads[i]
        within = address - s.address
        if within >= s.file_bytes:
            return b""
        at = s.offset + within
        return self._map[at : at + min(size, s.file_bytes - within)]

    def _in_file(self, address, size):
        for m in self._files:
            if m.start <= address < m.end:
                if m.path not in self._opened:
                    try:
                        self._opened[m.path] = os.open(m.path, os.O_RDONLY | os.O_CLOEXEC)
                    except OSError:
                        self._opened[m.path] = None
                file = self._opened[m.path]
                if file is None:
                    return b""
                return os.pread(file, min(size, m.end - address), m.offset + address - m.start)
        return b""

    def cut(self):
        """A remark if a core file is shorter than its header says, else None."""
        if len(self._map) >= self.whole_bytes:
            return None
        return f"the core file is cut short: {len(self._map)} of {self.whole_bytes} bytes (`ulimit -c unlimited`, room on the disk)"

    def missing_files(self):
        return sorted(path for path, file in self._opened.items() if file is None)


def target(text):
    """The process or the core file that a command line names."""
    if text.isdigit() and not os.path.exists(text):
        return Process(int(text))
    return Core(text)
