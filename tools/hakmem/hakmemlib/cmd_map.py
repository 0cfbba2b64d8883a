# SPDX-License-Identifier: Apache-2.0
"""hakmem map: a picture of the heap."""

import os
import time

from . import Failure, picture, show
from .heap import Heap
from .memory import target

HELP = "draw the heap: a row a SuperSlab (2 MiB), a cell a page"


def add_arguments(parser):
    parser.add_argument("target", metavar="PID|CORE")
    parser.add_argument("-o", "--output", metavar="FILE", default="hakmem.html", help="a .png, .svg or .html file (default hakmem.html)")
    parser.add_argument("--record", metavar="SECONDS", type=float, help="look again and again for so long; .html only, with a slider")
    parser.add_argument("--every", metavar="SECONDS", type=float, help="between two looks of --record (default: 30 looks)")


def title_of(memory, heap):
    return f"{memory.name} (pid {memory.pid}), {heap.flavour}"


def caption_of(heap, seconds=None):
    s = heap.stats()
    text = f"live {show.size(s['live'])}, cached {show.size(s['tiny_cached'])}, free {show.size(s['tiny_free'])}, free dirty slabs {show.size(s['dirty'])}"
    if not heap.memory.is_core:
        text = f"RSS {show.size(heap.memory.status().get('VmRSS', 0))}, " + text
    return text if seconds is None else f"{seconds:.1f} s: {text}"


def run(args):
    form = os.path.splitext(args.output)[1].lower()
    if form not in (".png", ".svg", ".html"):
        raise Failure(f"{args.output}: its name must end in .png, .svg or .html", 2)
    if args.record is not None and (form != ".html" or args.record <= 0):
        raise Failure("--record: a time above 0, and a file in .html", 2)
    memory = target(args.target)
    if args.record is not None and memory.is_core:
        raise Failure("--record: a core file does not change", 2)
    heap = Heap(memory)
    title = title_of(memory, heap)
    found = picture.rows(heap)
    if form == ".html":
        body = picture.html(heap, _frames(args, memory, heap, found), title)
    else:
        body = (picture.png if form == ".png" else picture.svg)(heap, found, f"{title}: {caption_of(heap)}")
    try:
        with open(args.output, "wb") as file:
            file.write(body)
    except OSError as error:
        raise Failure(f"{args.output}: {error.strerror}") from None
    print(f"{args.output}: {len(found)} SuperSlab{'s' * (len(found) != 1)}")
    return 0


def _frames(args, memory, heap, found):
    if args.record is None:
        return [picture.frame(heap, found, caption_of(heap))]
    every = args.every or args.record / 30
    begun = time.monotonic()
    frames = [picture.frame(heap, found, caption_of(heap, 0))]
    while True:
        due = begun + len(frames) * every
        if due > begun + args.record:
            return frames
        time.sleep(max(0, due - time.monotonic()))
        try:
            heap = Heap(memory)
            frames.append(picture.frame(heap, picture.rows(heap), caption_of(heap, time.monotonic() - begun)))
        except Failure:
            return frames  # the process has ended: what there is is shown
