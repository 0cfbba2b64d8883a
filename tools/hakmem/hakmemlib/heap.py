# SPDX-License-Identifier: Apache-2.0
"""A heap as its metadata has it: slabs, and live, cached and free blocks.

The snapshot of a running process has parts of different moments, some milliseconds apart. Numbers that do not fit
together because of that are cut to what is possible."""

import struct

from . import layout as layouts
from . import show
from .memory import Unreadable

# How a block is.
LIVE, CACHED, FREE, ABSENT = "live", "cached", "free", "without pages"
QUARANTINED = "in quarantine"  # of hakmem_hardened: freed, and not to be handed out for a while; sums count it as cached


class Bin:
    __slots__ = ("number", "size", "blocks", "words")

    def __init__(self, number, size, blocks, words):
        self.number, self.size, self.blocks, self.words = number, size, blocks, words


class Slab:
    """A slab of blocks, or the first slab of a run. kind: tiny, large, heap, private, or chunk (of medium blocks)."""

    __slots__ = ("index", "kind", "bin", "clean", "colour", "run", "size", "pages", "room", "guard", "free", "cached", "blocks")

    def __init__(self, index, kind):
        self.index, self.kind = index, kind
        self.free = self.cached = 0  # bits: blocks that are free in the pool, and in threads' caches


class Thread:
    """A thread's heap."""

    __slots__ = ("number", "address", "has_thread", "cached", "refills", "refilled", "spills", "spilled")


class Heap:
    def __init__(self, memory):
        self.memory = memory
        for attempt in range(3):
            try:
                self._read()
                break
            except Unreadable:  # Memory was unmapped between two steps: another look may succeed.
                if memory.is_core or attempt == 2:
                    raise
        if memory.is_core and memory.cut():
            show.warn(f"{memory.path}: {memory.cut()}; what is missing counts as nothing")

    def _read(self):
        memory = self.memory
        self.layout = lay = layouts.find(memory)
        self.flavour = lay.flavour
        self.version = lay.bytes_of("version").rstrip(b"\0").decode()
        self.page = lay.number("page")
        self.grain = lay.variable("superslab_grain")
        self.slab_bytes = lay.number("slab_bytes")
        self.superslab_slabs = lay.number("superslab_slabs")
        self.header = lay.number("block_header")
        self._read_bins()
        self._read_fronts()
        self.base = lay.variable("window.base")
        self.window_slabs = lay.variable("window.slabs") if self.base else 0
        self.slabs = {}  # by index, first slabs only
        self.superslabs = set()  # indexes of SuperSlabs whose metadata is in use
        self.avail, self.dirty = {}, {}  # by group: bits
        self.committed = 0  # slabs that can be written
        self.homes, self.spare = 0, 0  # SuperSlabs that a few threads have for themselves; their slabs not in use
        self.threads = []
        self._where_cached = {}  # address of a block -> the number of the thread's heap
        self._quarantined = set()  # addresses of those cached blocks that wait in a quarantine
        self.waiting = {}  # hakmem_hardened: freed large blocks that wait, by the index of their first slab
        self._read_arena()
        self._read_aside()
        self._read_waiting()
        self._read_threads()
        self._read_far()

    # --- Reading

    def _read_bins(self):
        lay = self.layout
        raw, each = lay.bytes_of("bins"), lay.number("bin")
        self.bins = []
        for i in range(len(raw) // each):
            size, blocks, words = (lay.field(raw, "bin." + f, i * each) for f in ("size", "blocks", "words"))
            self.bins.append(Bin(i, size, blocks, words))

    def _read_fronts(self):
        """Rows that fronts have of their own."""
        lay = self.layout
        fronts = struct.unpack(f"<{lay.size('fronts') // 8}Q", lay.bytes_of("fronts"))
        for front in set(fronts) | {lay.variable("fronts.alternative")}:
            if front:
                rows = self.memory.number(front + lay.offset("front.layout"))
                if rows:
                    lay.add(lay.rows_of(rows))

    def _read_arena(self):
        if not self.base:
            return
        lay, memory = self.layout, self.memory
        groups_at, meta_at = lay.variable("window.groups"), lay.variable("window.meta")
        group_bytes, group_slabs = lay.number("group"), lay.number("group_slabs")
        piece_slabs, meta_bytes = lay.number("arena.piece_slabs"), lay.number("superslab_meta")
        opened = int.from_bytes(lay.bytes_of("arena.open"), "little")
        groups = []
        for piece in range(min(opened.bit_length(), self.window_slabs // piece_slabs)):
            if opened >> piece & 1:
                per = piece_slabs // group_slabs
                groups += range(piece * per, (piece + 1) * per)
        raws = memory.read_many([(groups_at + g * group_bytes, group_bytes) for g in groups])
        per_group = group_slabs // self.superslab_slabs
        for group, raw in zip(groups, raws):
            if raw is None:
                continue
            self.avail[group] = lay.field(raw, "group.avail")
            self.dirty[group] = lay.field(raw, "group.dirty")
            committed = lay.field(raw, "group.committed")
            mapped = lay.field(raw, "group.mapped") & ~lay.field(raw, "group.gone")
            for i in range(per_group):
                if committed >> i & 1:
                    self.committed += bin(mapped >> i * self.superslab_slabs & (1 << self.superslab_slabs) - 1).count("1")
            known = committed | lay.field(raw, "group.meta_used")
            self.superslabs.update(group * per_group + i for i in range(per_group) if known >> i & 1)
        self.group_slabs = group_slabs
        offset = lay.offset("superslab.slabs")
        size = lay.number("slab") * self.superslab_slabs
        has_homes = "superslab.owner" in lay
        if has_homes:  # The fields of homes are behind the slabs.
            size = lay.offset("superslab.spare") + 4 - offset
        raws = memory.read_many([(meta_at + s * meta_bytes + offset, size) for s in self.superslabs])
        kinds = ("tiny", "large", "heap", "private", "chunk")
        self._kinds = {lay.number("kind." + kind): kind for kind in kinds if "kind." + kind in lay}
        wanted = []
        for superslab, raw in zip(self.superslabs, raws):
            if raw is not None:
                if has_homes:
                    self.homes += lay.field(raw, "superslab.owner", -offset) != 0
                    self.spare += bin(lay.field(raw, "superslab.spare", -offset)).count("1")
                self._read_superslab(superslab, raw, meta_at + superslab * meta_bytes, wanted)
        for (slab, _, _), raw in zip(wanted, memory.read_many([(at, size) for _, at, size in wanted])):
            if raw is not None and slab.kind == "chunk":
                self._read_chunk(slab, raw)
            elif raw is not None:
                slab.free = int.from_bytes(raw, "little")

    def _read_chunk(self, slab, raw):
        """The blocks of a chunk: (start, asked, pages), by address."""
        lay, start = self.layout, self.address(slab.index)
        slot, colour, size = (lay.number(f"medium.{field}_shift") for field in ("slot", "colour", "size"))
        for page, entry in enumerate(struct.unpack(f"<{len(raw) // 8}Q", raw)):
            if entry:
                begin = start + page * self.page + (entry >> colour & (1 << size - colour) - 1)
                slab.blocks.append((begin, entry >> size, entry & (1 << slot) - 1))

    def _read_superslab(self, superslab, raw, at, wanted):
        lay = self.layout
        each, inline_words = lay.number("slab"), lay.number("slab.inline_words")
        for i in range(self.superslab_slabs):
            base = i * each
            kind = self._kinds.get(lay.field(raw, "slab.kind", base))
            if kind is None:
                continue
            slab = Slab(superslab * self.superslab_slabs + i, kind)
            if kind == "tiny":
                number = lay.field(raw, "slab.bin", base)
                if not 0 < number < len(self.bins):
                    continue
                slab.bin = self.bins[number]
                slab.clean = lay.field(raw, "slab.clean", base)
                slab.pages = lay.field(raw, "slab.pages", base)
                if slab.bin.words <= inline_words:
                    start = base + lay.offset("slab.bits")
                    slab.free = int.from_bytes(raw[start : start + slab.bin.words * 8], "little")
                else:
                    bits = at + lay.offset("superslab.bits") + i * lay.number("superslab.bits_each")
                    wanted.append((slab, bits, slab.bin.words * 8))
            elif kind == "chunk":
                slab.run, slab.blocks = lay.number("medium.slabs"), []
                entries = at + lay.offset("superslab.bits") + i * lay.number("superslab.bits_each")
                wanted.append((slab, entries, slab.run * self.slab_bytes // self.page * 8))
            elif kind in ("large", "private"):
                slab.run = max(1, lay.field(raw, "slab.run", base))
                slab.size = lay.field(raw, "slab.size", base)
                slab.colour = lay.field(raw, "slab.colour", base)
                slab.room = min(lay.field(raw, "slab.room", base), slab.run - 1)
                slab.guard = lay.field(raw, "slab.flags", base) & lay.number("slab.guard") if "slab.flags" in lay else 0
            self.slabs[slab.index] = slab

    def _read_aside(self):
        """Runs of slabs that are set aside for the threads that freed them."""
        first = self.layout.number("aside.from_shift")
        length = self.layout.number("aside.length_shift")
        raw = self.layout.bytes_of("aside.words")
        self.aside = {}
        for word in struct.unpack(f"<{len(raw) // 8}Q", raw):
            if word:
                self.aside[word % (1 << length) >> first] = word >> length

    def _read_waiting(self):
        """Freed large blocks of hakmem_hardened that wait before they are used again."""
        lay = self.layout
        if "waiting.runs" not in lay or not self.base:
            return
        run_bits, has_bits = lay.number("waiting.run_bits"), lay.number("waiting.has_bits")
        raw = lay.bytes_of("waiting.runs")
        runs = [word for word in struct.unpack(f"<{len(raw) // 8}Q", raw) if word]
        each, per = lay.number("slab"), self.superslab_slabs
        meta, meta_bytes, first = lay.variable("window.meta"), lay.number("superslab_meta"), lay.offset("superslab.slabs")
        places = [word >> run_bits + has_bits for word in runs]
        raws = self.memory.read_many([(meta + i // per * meta_bytes + first + i % per * each, each) for i in places])
        for index, word, raw in zip(places, runs, raws):
            if raw is None or index in self.slabs:
                continue  # it has left the quarantine meanwhile
            slab = Slab(index, "large")
            slab.run = max(1, word >> has_bits & (1 << run_bits) - 1)
            slab.size, slab.colour = lay.field(raw, "slab.size"), lay.field(raw, "slab.colour")
            slab.room, slab.clean = 0, not word & lay.number("waiting.has_pages")
            self.waiting[index] = slab

    def _read_threads(self):
        lay, memory = self.layout, self.memory
        first = lay.size("heaps.first") // 8
        made = min(lay.variable("heaps.made"), first + lay.size("heaps.slabs") // 8 * lay.number("heaps.in_slab"))
        places = list(struct.unpack(f"<{min(made, first)}Q", lay.bytes_of("heaps.first", min(made, first) * 8)))
        in_slab = lay.number("heaps.in_slab")
        if made > first:
            count = (made - 1) // in_slab + 1
            tables = struct.unpack(f"<{count}Q", lay.bytes_of("heaps.slabs", count * 8))
            for number in range(first, made):
                table = tables[number // in_slab]
                places.append(memory.number(table + number % in_slab * 8) if table else 0)
        words = (made + 63) // 64 * 8
        free = int.from_bytes(lay.bytes_of("heaps.free", words), "little")
        cold = int.from_bytes(lay.bytes_of("heaps.cold", words), "little")
        self.made_heaps = sum(1 for place in places if place)
        raws = memory.read_many([(place, lay.number("heap")) if place else (0, 0) for place in places])
        for number, (place, raw) in enumerate(zip(places, raws)):
            if place and raw:
                self._read_thread(number, place, raw, bool(free >> number & 1), bool(cold >> number & 1))

    def _read_thread(self, number, place, raw, is_free, is_cold):
        lay = self.layout
        thread = Thread()
        thread.number, thread.address, thread.has_thread = number, place, not is_free
        thread.cached = [0] * len(self.bins)
        for name in ("refills", "refilled", "spills", "spilled"):
            setattr(thread, name, 0 if is_cold else lay.field(raw, "heap." + name))
        self.threads.append(thread)
        if is_cold:
            return
        stacks, cold = lay.offset("heap.bins"), lay.offset("heap.cold")
        top_at, each = lay.offset("stack.top"), lay.number("stack")
        bottom_at, behind_at, each_cold = lay.offset("heap_bin.bottom"), lay.offset("heap_bin.behind"), lay.number("heap_bin")
        ranges = []
        for b in range(1, len(self.bins)):
            (top,) = struct.unpack_from("<Q", raw, stacks + b * each + top_at)
            (bottom,) = struct.unpack_from("<Q", raw, cold + b * each_cold + bottom_at)
            held = (top - bottom) // 8
            ranges.append((bottom + 8, held * 8) if 0 < held <= 4096 else (0, 0))
        for b, slots in enumerate(self.memory.read_many(ranges), 1):
            for block in struct.unpack(f"<{len(slots) // 8}Q", slots) if slots else ():
                self._mark_cached(thread, b, block)
        state = lay.field(raw, "heap.front_state")
        if state and "quarantine.blocks" in lay:
            self._read_quarantine(thread, state)
        if state and "layers.lists" in lay:
            for b in range(1, len(self.bins)):
                if struct.unpack_from("<H", raw, cold + b * each_cold + behind_at)[0]:
                    for block in self._behind(state, b):
                        self._mark_cached(thread, b, block)

    def _read_quarantine(self, thread, state):
        """The blocks of a heap of hakmem_hardened that were freed, and wait."""
        lay = self.layout
        most = lay.number("quarantine.most")
        try:
            raw = self.memory.read(state + lay.offset("quarantine.blocks"), lay.size("quarantine.blocks"))
        except Unreadable:
            return
        places = struct.unpack(f"<{len(raw) // 8}Q", raw)
        for b in range(1, len(self.bins)):
            for block in places[b * most : (b + 1) * most]:
                if block and self._mark_cached(thread, b, block):
                    self._quarantined.add(block)

    def _behind(self, state, b):
        """The blocks of a bin that the classic front holds behind the cache."""
        lay, memory = self.layout, self.memory
        try:
            at = state + lay.offset("layers.magazines") + b * lay.number("magazine")
            count = memory.number(at + lay.offset("magazine.count"), 4)
            most = lay.size("magazine.blocks") // 8
            raw = memory.read(at + lay.offset("magazine.blocks"), min(count, most) * 8)
            yield from struct.unpack(f"<{len(raw) // 8}Q", raw)
            at = state + lay.offset("layers.lists") + b * lay.number("list")
            block = memory.number(at + lay.offset("list.head"))
            for _ in range(min(memory.number(at + lay.offset("list.count"), 4), 4096)):
                if not block:
                    break
                yield block
                block = memory.number(block)
        except Unreadable:
            return

    def _mark_cached(self, thread, b, block):
        index = (block - self.base) // self.slab_bytes
        slab = self.slabs.get(index)
        if slab is None or slab.kind != "tiny" or slab.bin.number != b:
            return False
        number, rest = divmod((block - self.base) % self.slab_bytes, slab.bin.size)
        if rest == 0 and number < slab.bin.blocks and not slab.free >> number & 1 and not slab.cached >> number & 1:
            slab.cached |= 1 << number
            thread.cached[b] += 1
            self._where_cached[block] = thread.number
            return True
        return False

    def _read_far(self):
        lay = self.layout
        self.far = []  # (address, bytes asked for)
        used, each = lay.variable("far.used"), lay.number("far")
        raw = lay.bytes_of("far.table", used * each) if used else b""
        for i in range(len(raw) // each):
            start = lay.field(raw, "far.start", i * each)
            if start > 1:
                self.far.append((start, lay.field(raw, "far.size", i * each)))

    # --- Blocks

    def address(self, index):
        return self.base + index * self.slab_bytes

    def absent_from(self, slab):
        """The number of the first block of a slab that lies on pages which it does not have yet."""
        if slab.pages in (0, self.layout.number("slab.pages_held")):
            return slab.bin.blocks
        return min(slab.bin.blocks, slab.pages * self.page // slab.bin.size)

    def free_bits(self, slab):
        return slab.free & ((1 << slab.bin.blocks) - 1)

    def live_bits(self, slab):
        return ((1 << self.absent_from(slab)) - 1) & ~slab.free & ~slab.cached

    def counts(self, slab):
        """How many blocks of a slab are live, cached and free."""
        return tuple(bin(bits).count("1") for bits in (self.live_bits(slab), slab.cached, self.free_bits(slab)))

    def state_of(self, slab, number):
        if slab.free >> number & 1:
            return FREE
        if slab.cached >> number & 1:
            return QUARANTINED if self.address(slab.index) + number * slab.bin.size in self._quarantined else CACHED
        return LIVE if number < self.absent_from(slab) else ABSENT

    def cached_by(self, block):
        return self._where_cached.get(block)

    def is_avail(self, index):
        return bool(self.avail.get(index // self.group_slabs, 0) >> index % self.group_slabs & 1)

    def is_dirty(self, index):
        return bool(self.dirty.get(index // self.group_slabs, 0) >> index % self.group_slabs & 1)

    def large_start(self, slab):
        return self.address(slab.index) + slab.colour

    def large_usable(self, slab):
        return self.usable(slab.size)

    def usable(self, asked):
        return (asked + self.grain - 1) & -self.grain

    def head_of(self, index):
        """The first slab of the run that slab `index` is in; None if it is in none."""
        head = index
        while head >= 0 and index - head < 1 << 22:
            slab = self.slabs.get(head)
            if slab is not None:
                return slab if slab.kind in ("large", "private", "chunk") and index - head < slab.run or head == index else None
            if self.is_avail(head):
                return None
            head -= 1
        return None

    def chunk(self, slab):
        """The description at the start of a private heap's run: (bin, first, offset, usable, free bits)."""
        lay = self.layout
        start = self.address(slab.index)
        try:
            size = max(lay.offset("chunk." + f) + lay.size("chunk." + f) for f in ("bin", "first", "offset", "usable", "self", "free"))
            raw = self.memory.read(start, size)
        except Unreadable:
            return None
        number = lay.field(raw, "chunk.bin")
        if lay.field(raw, "chunk.self") != start or number >= len(self.bins):
            return None
        free = lay.offset("chunk.free")
        bits = int.from_bytes(raw[free : free + self.bins[number].words * 8], "little")
        return self.bins[number], lay.field(raw, "chunk.first"), lay.field(raw, "chunk.offset"), lay.field(raw, "chunk.usable"), bits

    def early_blocks(self):
        """(address, bytes, live) of the blocks that are older than the library's start."""
        lay, memory = self.layout, self.memory
        each = lay.number("early_header")
        chunk = lay.variable("early.chunks")
        while chunk:
            at = memory.number(chunk + lay.offset("early_chunk.from"))
            used = memory.number(chunk + lay.offset("early_chunk.used"))
            raw = memory.read(at, used - at) if 0 < used - at <= 1 << 30 else b""
            offset = 0
            while offset + each <= len(raw):
                size = lay.field(raw, "early_header.size", offset)
                if size:
                    yield at + offset + each, size, bool(lay.field(raw, "early_header.live", offset))
                offset += each + size
            chunk = memory.number(chunk + lay.offset("early_chunk.next"))

    # --- Tags of hakmem_hardened

    def _hash(self, block):
        low, high = struct.unpack("<QQ", self.layout.bytes_of("hardening.keys"))
        product = (block ^ low) * high
        return (product ^ product >> 64) & (1 << 64) - 1 | 1

    def _has_tags(self):
        return "hardening.tags" in self.layout and self.layout.number("hardening.tags") == 1

    def tag_of(self, start, size):
        """(bytes asked for, whether the bytes behind them are as they were written) of a live small block that has a tag
        in the last of its `size` bytes; None if it has none, or that cannot be read."""
        lay = self.layout
        if not self._has_tags():
            return None
        try:
            raw = self.memory.read(start, size)
        except Unreadable:
            return None
        tag = int.from_bytes(raw[-8:], "little")
        if tag == 0:
            return None  # the block is being handed out or freed
        hashed = self._hash(start)
        slack = (tag ^ hashed) >> lay.number("hardening.shift")
        if slack * lay.number("hardening.slack") & (1 << 64) - 1 != tag ^ hashed or slack > size - 8:
            return None, False
        asked = size - 8 - slack
        behind = raw[asked : asked + min(slack, 8)]
        return asked, behind == hashed.to_bytes(8, "little")[: len(behind)]

    def written_to(self, start, size):
        """Whether a freed block, which should be zero, was written to; False if that is not known."""
        lay = self.layout
        if not self._has_tags() or not lay.variable("hardening.on") & lay.number("hardening.zero"):
            return False
        part = size if size <= lay.variable("hardening.zero_most") else lay.number("hardening.zero_least") // 2
        raws = self.memory.read_many([(start, part), (start + size - part, part)])
        return any(raw is not None and raw.count(0) != len(raw) for raw in raws)

    # --- Sampled and guarded blocks

    def _calls(self, where):
        """The calls in one struct guarded_calls: (thread's number in the kernel, return addresses)."""
        lay = self.layout
        raw = self.memory.read(where, lay.offset("calls.pcs") + lay.size("calls.pcs"))
        depth = min(lay.field(raw, "calls.depth"), lay.size("calls.pcs") // 8)
        return lay.field(raw, "calls.thread"), struct.unpack_from(f"<{depth}Q", raw, lay.offset("calls.pcs"))

    def sampled_at(self, address):
        """(start, bytes, state) of the sampled small block at an address; None if there is none."""
        lay = self.layout
        base, used = lay.variable("sampled.base"), lay.variable("sampled.used")
        index = (address - base) // self.slab_bytes if base and address >= base else -1
        if not 0 <= index < used:
            return None
        each = lay.number("sampled_chunk")
        raw = self.memory.read(lay.variable("sampled.chunks") + index * each, each)
        number = lay.field(raw, "sampled_chunk.bin")
        if not 0 < number < len(self.bins):
            return None
        b = self.bins[number]
        block = (address - base) % self.slab_bytes // b.size
        if block >= b.blocks:
            return None
        state = FREE if lay.field(raw, "sampled_chunk.bits") >> block & 1 else LIVE
        return base + index * self.slab_bytes + block * b.size, b.size - self.header, state

    def guarded_near(self, address):
        """The guarded block whose slot or guard page an address is in, as a dictionary; None if there is none."""
        lay = self.layout
        base, size = lay.variable("guarded.base"), lay.variable("guarded.bytes")
        if not size or not 0 <= address - base < size:
            return None
        stride, each = lay.number("guarded.stride"), lay.number("guarded")
        slot = min((address - base) // stride, size // stride - 1)
        where = lay.variable("guarded.slots") + slot * each
        raw = self.memory.read(where, each)
        state = lay.field(raw, "guarded.state")
        if state not in (lay.number("guarded.is_live"), lay.number("guarded.is_freed")):
            return None
        found = {"start": lay.field(raw, "guarded.start"), "size": lay.field(raw, "guarded.size"), "state": LIVE}
        found["allocated_by"], found["allocated_at"] = self._calls(where + lay.offset("guarded.allocated"))
        if state == lay.number("guarded.is_freed"):
            found["state"] = "freed"
            found["freed_by"], found["freed_at"] = self._calls(where + lay.offset("guarded.freed"))
        return found

    def sample_of(self, block):
        """(bytes asked for, return addresses) of a live block that was sampled; None if it was not."""
        lay, memory = self.layout, self.memory
        raw, each = lay.bytes_of("profile.levels"), lay.number("level")
        places, one = lay.number("profile.places"), lay.number("sample")
        hashed = ((block >> 4) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 32
        for level in range(lay.variable("profile.level_count")):
            table = lay.field(raw, "level.places", level * each)
            count = lay.number("profile.first_level") << level
            at = memory.read(table + hashed % (count // places) * places * one, places * one)
            for i in range(0, places * one, one):
                if lay.field(at, "sample.ptr", i) == block:
                    trace = lay.field(at, "sample.stack", i)
                    depth = min(memory.number(trace + lay.offset("trace.depth"), 4), 1024)
                    pcs = memory.read(trace + lay.number("trace.pcs"), depth * 8)
                    return lay.field(at, "sample.size", i), struct.unpack(f"<{depth}Q", pcs)
        return None

    # --- Settings

    def settings(self):
        """(name, value, preset) of each."""
        lay, memory = self.layout, self.memory
        each = lay.number("setting")
        table = lay.bytes_of("settings.table")
        values = lay.bytes_of("settings.values")
        for i in range(len(table) // each):
            name = memory.string(lay.field(table, "setting.name", i * each))
            preset = lay.field(table, "setting.preset", i * each)
            signed = struct.unpack_from("<q", values, i * 8)[0]
            yield name, signed, preset - (1 << 64) if preset >> 63 else preset

    # --- Sums

    def _count_large(self, s, asked, most):
        pages = min((asked + self.page - 1) & -self.page, most)
        s["large_live"] += asked
        s["large_blocks"] += 1
        s["large_pages"] += pages
        if asked >= 128 << 10:
            s["mapped"] += pages
            s["mapped_blocks"] += 1

    def stats(self):
        """What hak_stats() says, by the same names, and "live", the sum of three; bytes unless statistics.h says otherwise."""
        lay = self.layout
        s = dict.fromkeys(
            "superslabs reserved committed tiny_live tiny_cached tiny_free large_live large_blocks far private_live dirty"
            " clean metadata tiny_slabs large_slabs private_slabs heap_slabs large_pages mapped mapped_blocks"
            " large_slack large_guards".split(),
            0,
        )
        bins = [dict(size=b.size, slabs=0, live=0, cached=0, free=0) for b in self.bins]
        used = set()
        for slab in self.slabs.values():
            used.add(slab.index // self.superslab_slabs)
            if slab.kind == "tiny":
                s["tiny_slabs"] += 1
                row = bins[slab.bin.number]
                row["slabs"] += 1
                for state, count in zip((LIVE, CACHED, FREE), self.counts(slab)):
                    row[state] += count
                s["clean"] += bin(slab.clean).count("1") * self.page
            elif slab.kind == "heap":
                s["heap_slabs"] += 1
            elif slab.kind == "chunk":
                s["large_slabs"] += slab.run
                for _, asked, pages in slab.blocks:
                    self._count_large(s, asked, pages * self.page)
            else:
                used.update(range(slab.index // self.superslab_slabs, (slab.index + slab.run - 1) // self.superslab_slabs + 1))
                s[slab.kind + "_slabs"] += slab.run
                if slab.kind == "large":
                    s["large_guards"] += slab.guard != 0
                    self._count_large(s, slab.size, slab.run * self.slab_bytes)
        s["large_slack"] = s["large_slabs"] * self.slab_bytes - s["large_pages"]
        for address, size in self.far:
            for name in ("far", "large_live", "large_pages", "mapped"):
                s[name] += (size + self.page - 1) & -self.page
            s["large_blocks"] += 1
            s["mapped_blocks"] += 1
        for row in bins:
            for state in ("live", "cached", "free"):
                s["tiny_" + state] += row[state] * row["size"]
        if "sampled.live" in lay:
            # Sampled small blocks belong to the program like any other, but are in no slab.
            s["sampled_live"] = lay.variable("sampled.live")
            s["tiny_live"] += s["sampled_live"]
            s["tiny_free"] += max(0, lay.variable("sampled.used") * self.slab_bytes - s["sampled_live"])
        s["superslabs"] = len(used)
        s["homes"], s["spare_slabs"] = self.homes, self.spare
        s["committed"] = self.committed * self.slab_bytes
        s["peak"] = lay.variable("arena.peak") * self.slab_bytes
        s["reserved"] = lay.variable("arena.reserved")
        s["private_live"] = lay.variable("private.live")
        s["live"] = s["tiny_live"] + s["large_live"] + s["private_live"]
        free_dirty = sum(bin(self.avail[g] & self.dirty[g]).count("1") for g in self.avail)
        s["dirty"] = (free_dirty + sum(self.aside.values())) * self.slab_bytes
        s["metadata"] = s["superslabs"] * lay.number("superslab_meta") + s["heap_slabs"] * self.slab_bytes
        s["returned"] = lay.variable("arena.purged_slabs") * self.slab_bytes + lay.variable("decay.pages") * self.page
        s["purges"], s["purge_ns"] = lay.variable("decay.steps"), lay.variable("decay.ns")
        s["purge_longest_ns"] = lay.variable("decay.longest")
        s["moved"] = lay.variable("arena.moved_slabs") * self.slab_bytes
        for name, plural in (("refills", "refills"), ("refilled", "refilled_blocks"), ("spills", "spills"), ("spilled", "spilled_blocks")):
            s[plural] = lay.variable("retired." + name) + sum(getattr(t, name) for t in self.threads)
        s["heaps"], s["free_heaps"] = self.made_heaps, sum(not t.has_thread for t in self.threads)
        s["large_quarantined"] = sum(slab.run * self.slab_bytes for slab in self.waiting.values() if not slab.clean)
        if "quarantine.blocks" in lay:
            s["tiny_quarantined"] = sum(self.slabs[(block - self.base) // self.slab_bytes].bin.size for block in self._quarantined)
        s["bins"] = bins[1:]
        return s
