# SPDX-License-Identifier: Apache-2.0
"""The commands `hakmem stats` and `hakmem where` in gdb, for a process, a core file or a remote process."""

import gdb

from . import Failure, cmd_stat, cmd_where
from .heap import Heap
from .memory import Mapping, Memory, Unreadable


class Inferior(Memory):
    """The memory of the process or core file that gdb has."""

    def __init__(self):
        self._inferior = gdb.selected_inferior()
        if not self._inferior.pid:
            raise Failure("nothing runs, and there is no core file")
        self.pid = self._inferior.pid
        self.name = (gdb.current_progspace().filename or "program").rsplit("/", 1)[-1]

    def read(self, address, size):
        if size == 0:
            return b""
        try:
            return bytes(self._inferior.read_memory(address, size))
        except (gdb.error, OverflowError):
            raise Unreadable(f"{address:#x}") from None

    def descriptors(self):
        try:
            yield int(gdb.parse_and_eval("(unsigned long) &hakmem_descriptor")), "hakmem"
        except gdb.error:  # symbols are stripped
            yield from super().descriptors()

    def mappings(self):
        try:
            lines = gdb.execute("info proc mappings", to_string=True).splitlines()
        except gdb.error:
            return
        for line in lines:
            words = line.split()
            if len(words) >= 4 and words[0].startswith("0x"):
                path = words[-1] if words[-1].startswith(("/", "[")) else ""
                yield Mapping(int(words[0], 16), int(words[1], 16), "", int(words[3], 16), path, int(path.startswith("/")))


class _Prefix(gdb.Command):
    """What hakmem, which serves this program's malloc, knows: `hakmem stats`, `hakmem where ADDRESS`."""

    def __init__(self):
        super().__init__("hakmem", gdb.COMMAND_DATA, prefix=True)


class _Command(gdb.Command):
    def __init__(self, name, complete=gdb.COMPLETE_NONE):
        super().__init__("hakmem " + name, gdb.COMMAND_DATA, complete)

    def invoke(self, argument, _from_tty):
        try:
            self.act(argument)
        except (Failure, Unreadable) as error:
            raise gdb.GdbError(f"hakmem: {error}") from None


class _Stats(_Command):
    """hakmem stats: what the allocator holds."""

    def __init__(self):
        super().__init__("stats")

    def act(self, _argument):
        heap = Heap(Inferior())
        print(cmd_stat.text(cmd_stat.of_heap(heap)))


class _Where(_Command):
    """hakmem where EXPRESSION: the block that an address is in, and what is beside it."""

    def __init__(self):
        super().__init__("where", gdb.COMPLETE_EXPRESSION)

    def act(self, argument):
        if not argument:
            raise Failure("an address is wanted: a number, a variable, any expression")
        try:
            address = int(gdb.parse_and_eval(f"(unsigned long) ({argument})"))
        except gdb.error as error:
            raise Failure(str(error)) from None
        print(cmd_where.text(cmd_where.look(Heap(Inferior()), address)))


_Prefix()
_Stats()
_Where()
