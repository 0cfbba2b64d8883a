# SPDX-License-Identifier: Apache-2.0
"""hakmem where: which block an address is in, how it is, and what is beside it."""

import argparse
import json

from . import pprof
from .heap import CACHED, LIVE, QUARANTINED, Heap
from .memory import target

HELP = "print the block that an address is in, and the blocks beside it"


def _address(text):
    try:
        value = int(text, 16)  # /proc/PID/maps and gdb's `info proc` print addresses with and without 0x
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text}: not an address (0x...)")
    return value


def add_arguments(parser):
    parser.add_argument("target", metavar="PID|CORE")
    parser.add_argument("address", metavar="ADDRESS", type=_address, nargs="+", help="in hexadecimal, as 0x7f...")
    parser.add_argument("--json", action="store_true", help="one JSON object an address, a line each")


def run(args):
    heap = Heap(target(args.target))
    for address in args.address:
        found = look(heap, address)
        print(json.dumps(found) if args.json else text(found))
    return 0


def _block(kind, start, size, state, **more):
    return dict(kind=kind, start=start, size=size, state=state, **more)


def tiny_block(heap, slab, number):
    """Block `number` of a slab; None beyond its ends."""
    if not 0 <= number < slab.bin.blocks:
        return None
    start = heap.address(slab.index) + number * slab.bin.size
    found = _block("small", start, slab.bin.size - heap.header, heap.state_of(slab, number), number=number)
    if found["state"] in (CACHED, QUARANTINED):
        found["heap"] = heap.cached_by(start)
    if found["state"] == LIVE:
        tag = heap.tag_of(start, slab.bin.size)
        if tag:
            asked, whole = tag
            if asked is not None:
                found["asked"] = asked
            if not whole:
                found["fault"] = "written past its end"
    elif heap.written_to(start, slab.bin.size):
        found["fault"] = "written to after it was freed"
    return found


def large_block(heap, slab):
    return _block("large", heap.large_start(slab), heap.large_usable(slab), QUARANTINED if slab.index in heap.waiting else LIVE, asked=slab.size)


def look(heap, address):
    """Everything that is known of an address, as a dictionary."""
    answer = _look(heap, address)
    block = answer["block"]
    if block and block["state"] == "live" and "allocated_at" not in answer:
        sample = heap.sample_of(block["start"])
        if sample:
            block["asked"], answer["allocated_at"] = sample
    for name in ("allocated_at", "freed_at"):
        if name in answer:
            answer[name] = names_of(heap.memory, answer[name])
    return answer


def names_of(memory, pcs):
    """The functions of return addresses, the innermost first."""
    mappings = [m for m in memory.mappings() if m.path.startswith("/")]
    found = {}
    for i, pc in enumerate(pcs):
        for m in mappings:
            if m.start <= pc - 1 < m.end:
                found.setdefault(m, []).append((i, pc - 1))
    names = {}
    for m, wanted in found.items():
        names.update(pprof.symbolize(pprof.Mapping(m.start, m.end, m.offset, m.path, ""), wanted))
    return [name for i, pc in enumerate(pcs) for name in reversed(names.get(i, [f"{pc:#x}"]))]


def _look(heap, address):
    answer = {"address": address, "block": None}
    sampled = heap.sampled_at(address)
    if sampled:
        start, size, state = sampled
        return dict(answer, block=_block("sampled", start, size, state), offset=address - start)
    guarded = heap.guarded_near(address)
    if guarded:
        more = {k: v for k, v in guarded.items() if k.startswith(("allocated", "freed"))}
        block = _block("guarded", guarded["start"], guarded["size"], guarded["state"])
        offset = address - block["start"]
        if 0 <= offset < block["size"]:
            return dict(answer, block=block, offset=offset, **more)
        side = f"{-offset} bytes in front of" if offset < 0 else f"{offset - block['size'] + 1} bytes past the end of"
        return dict(answer, what=f"{side} a guarded block", near=block, **more)
    for start, size in heap.far:
        if start <= address < start + size:
            return dict(answer, block=_block("large", start, size, "live", asked=size), offset=address - start, of="a mapping of its own")
    index = (address - heap.base) // heap.slab_bytes if heap.base and address >= heap.base else -1
    if not 0 <= index < heap.window_slabs or index // heap.superslab_slabs not in heap.superslabs:
        return _outside(heap, answer, address)
    answer.update(slab=index, superslab=index // heap.superslab_slabs, slab_start=heap.address(index))
    slab = heap.head_of(index) or next((s for s in heap.waiting.values() if s.index <= index < s.index + s.run), None)
    if slab is None:
        for head, count in heap.aside.items():
            if head <= index < head + count:
                return dict(answer, what="free pages, set aside for the thread that freed them")
        if heap.is_avail(index):
            return dict(answer, what="free pages" + (" (with memory)" if heap.is_dirty(index) else ""))
        return dict(answer, what="no block: pages of the allocator's, or on their way")
    if slab.kind == "heap":
        for thread in heap.threads:
            if thread.address == heap.address(slab.index):
                return dict(answer, what=f"the allocator's own: the heap of thread heap {thread.number}")
        return dict(answer, what="the allocator's own")
    if slab.kind == "tiny":
        return _in_tiny(heap, answer, slab, address)
    if slab.kind == "private":
        return _in_private(heap, answer, slab, address)
    if slab.kind == "chunk":
        return _in_chunk(heap, answer, slab, address)
    block = large_block(heap, slab)
    offset = address - block["start"]
    if 0 <= offset < block["size"]:
        answer.update(block=block, offset=offset)
    else:
        answer["what"] = "in front of a large block" if offset < 0 else "behind a large block, in its room to grow"
        answer["near"] = block
    before, behind = slab.index - 1, slab.index + slab.run
    answer.update(before=_neighbour(heap, before, False), behind=_neighbour(heap, behind, True))
    return answer


def _neighbour(heap, index, first):
    """The block that begins (first) or ends in a slab, if there is one."""
    slab = heap.head_of(index) if index >= 0 else None
    if slab is None or slab.kind in ("heap", "private"):
        return None
    if slab.kind == "chunk":
        blocks = medium_blocks(heap, slab)
        return blocks[0 if first else -1] if blocks else None
    if slab.kind == "tiny":
        return tiny_block(heap, slab, 0 if first else slab.bin.blocks - 1)
    return large_block(heap, slab)


def _in_tiny(heap, answer, slab, address):
    within = address - heap.address(slab.index)
    number = within // slab.bin.size
    block = tiny_block(heap, slab, number)
    answer.update(bin=slab.bin.number, blocks=slab.bin.blocks)
    if block is None:
        return dict(answer, what="behind the last block of a slab", near=tiny_block(heap, slab, slab.bin.blocks - 1))
    answer.update(block=block, offset=within - number * slab.bin.size)
    answer["before"] = tiny_block(heap, slab, number - 1) or _neighbour(heap, slab.index - 1, False)
    answer["behind"] = tiny_block(heap, slab, number + 1) or _neighbour(heap, slab.index + 1, True)
    return answer


def medium_blocks(heap, slab):
    return [_block("medium", start, heap.usable(asked), LIVE, asked=asked) for start, asked, _ in slab.blocks]


def _in_chunk(heap, answer, slab, address):
    blocks = medium_blocks(heap, slab)
    below = [b for b in blocks if b["start"] <= address]
    behind = blocks[len(below)] if len(below) < len(blocks) else None
    if below and address < below[-1]["start"] + below[-1]["size"]:
        block = below.pop()
        answer.update(block=block, offset=address - block["start"])
    else:
        answer["what"] = "no block: between medium blocks, or free pages of their chunk"
    answer["before"] = below[-1] if below else _neighbour(heap, slab.index - 1, False)
    answer["behind"] = behind or _neighbour(heap, slab.index + slab.run, True)
    return answer


def _in_private(heap, answer, slab, address):
    chunk = heap.chunk(slab)
    if chunk is None:
        return dict(answer, what="a private heap's, whose description is damaged")
    b, first, offset, usable, free = chunk
    start = heap.address(slab.index)
    if b.number == 0:
        block = _block("large", start + offset, usable, "live", of="a private heap")
        within = address - block["start"]
        if not 0 <= within < usable:
            return dict(answer, what="beside a large block of a private heap", near=block)
        return dict(answer, block=block, offset=within)
    number, within = divmod(address - start, b.size)
    if not first <= number < b.blocks:
        return dict(answer, what="the description of a private heap's blocks")

    def at(i):
        if not first <= i < b.blocks:
            return None
        return _block("small", start + i * b.size, b.size - heap.header, "free" if free >> i & 1 else "live", of="a private heap")

    return dict(answer, block=at(number), offset=within, before=at(number - 1), behind=at(number + 1))


def _outside(heap, answer, address):
    for start, size, live in heap.early_blocks():
        if start <= address < start + size:
            return dict(answer, block=_block("early", start, size, "live" if live else "freed"), offset=address - start)
    for m in heap.memory.mappings():
        if m.start <= address < m.end:
            return dict(answer, what=f"not in the heap: {m.path or 'memory without a file'} {m.start:#x}-{m.end:#x} {m.rights}".rstrip())
    if heap.base and heap.base <= address < heap.address(heap.window_slabs):
        return dict(answer, what="in the heap's addresses, where nothing is mapped")
    return dict(answer, what="not in the heap, and not mapped" if not heap.memory.is_core else "not in the heap")


def _block_text(block):
    text = f"{block['start']:#x}, {block['size']} bytes, {block['state']}"
    if block.get("heap") is not None:
        text += f" ({'of' if block['state'] == QUARANTINED else 'in the cache of'} thread heap {block['heap']})"
    if "asked" in block and block["asked"] != block["size"]:
        text += f" ({block['asked']} asked for)"
    if "of" in block:
        text += f", of {block['of']}"
    if "fault" in block:
        text += f", {block['fault'].upper()}"
    return text


def text(a):
    lines = []
    block = a["block"]
    if block:
        where = "the start of" if a["offset"] == 0 else f"byte {a['offset']} of"
        past = ", past its end" if a["offset"] >= block["size"] else ""
        lines.append(f"{a['address']:#x}: {where} a {block['kind']} block{past}")
        lines.append(f"  block   {_block_text(block)}")
        if "number" in block:
            lines[-1] += f", number {block['number']} of {a['blocks']}"
    else:
        lines.append(f"{a['address']:#x}: {a['what']}")
        if a.get("near"):
            lines.append(f"  near    {_block_text(a['near'])}")
    for side in ("before", "behind"):
        if a.get(side):
            lines.append(f"  {side}  {_block_text(a[side])}")
    for name, words in (("allocated_at", "allocated"), ("freed_at", "freed")):
        if name in a:
            by = a.get(words + "_by")
            lines.append(f"  {words}" + (f" by thread {by}" if by else "") + " in")
            lines += [f"    {function}" for function in a[name]] or ["    (not known)"]
    if "slab" in a:
        lines.append(f"  slab    {a['slab']} at {a['slab_start']:#x}, SuperSlab {a['superslab']}")
    return "\n".join(lines)
