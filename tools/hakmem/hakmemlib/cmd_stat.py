# SPDX-License-Identifier: Apache-2.0
"""hakmem stat: what the allocator of a process or a core file holds."""

import json

from . import show
from .heap import Heap
from .memory import target

HELP = "print how much memory the allocator of a process or of a core file holds"


def add_arguments(parser):
    parser.add_argument("target", metavar="PID|CORE")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--prometheus", action="store_true", help="Prometheus's text format")


def of_heap(heap):
    """The figures that the heap alone gives, as a dictionary."""
    memory = heap.memory
    found = {
        "program": memory.name,
        "pid": memory.pid,
        "flavour": heap.flavour,
        "version": heap.version,
        "library": heap.layout.path,
        "settings": {name: value for name, value, preset in heap.settings() if value != preset},
    }
    found.update(heap.stats())
    return found


def gather(memory):
    """All figures, as a dictionary."""
    found = of_heap(Heap(memory))
    if not memory.is_core:
        status = memory.status()
        found["uptime_s"] = round(memory.uptime(), 1)
        found["rss"], found["peak_rss"] = status.get("VmRSS", 0), status.get("VmHWM", 0)
        found["swap"] = status.get("VmSwap", 0)
        found["threads"] = int(status.get("Threads", 0))
    return found


def run(args):
    found = gather(target(args.target))
    if args.json:
        print(json.dumps(found, indent=2))
    elif args.prometheus:
        print(prometheus(found), end="")
    else:
        print(text(found))
    return 0


def text(s):
    head = f"{s['program']} (pid {s['pid']}), {s['flavour']} {s['version']}"
    if "uptime_s" in s:
        head += f", up {show.span(s['uptime_s'])}, {s['threads']} thread" + "s" * (s["threads"] != 1)
    lines = [head]
    if s["settings"]:
        lines.append("  settings              " + " ".join(f"{k}={v}" for k, v in s["settings"].items()))
    if "rss" in s:
        lines.append(f"  RSS / its peak      {show.mib(s['rss']):>10} / {show.mib(s['peak_rss'])} MiB")
    lines.append(f"  peak in slabs       {show.mib(s['peak']):>10} MiB")
    caches = show.mib(s["tiny_cached"])
    lines += [
        f"  live: tiny / large  {show.mib(s['tiny_live']):>10} / {show.mib(s['large_live'])} MiB ({s['large_blocks']} large blocks)",
        f"  cached / free blocks{caches:>10} / {show.mib(s['tiny_free'])} MiB",
        f"  free dirty slabs    {show.mib(s['dirty']):>10} MiB",
        f"  committed / reserved{show.mib(s['committed']):>10} / {show.mib(s['reserved'])} MiB",
        f"  given back          {show.mib(s['returned']):>10} MiB so far; {s['purges']} steps of decay",
        f"  slabs: tiny / large / heaps {s['tiny_slabs']} / {s['large_slabs']} / {s['heap_slabs']}",
        f"  refills / spills    {s['refills']:>10} / {s['spills']}",
        f"  thread heaps        {s['heaps']:>10}, {s['free_heaps']} without a thread",
    ]
    if s.get("sampled_live"):
        lines.append(f"  sampled small blocks{show.mib(s['sampled_live']):>10} MiB of the live, in memory of their own")
    if "tiny_quarantined" in s:
        lines.append(f"  in quarantine       {show.mib(s['tiny_quarantined']):>10} MiB of the cached, {show.mib(s['large_quarantined'])} MiB of large blocks")
    if s["private_slabs"]:
        lines.append(f"  private heaps       {show.mib(s['private_live']):>10} MiB live in {s['private_slabs']} slabs")
    rows = [(b["size"], b["slabs"], b["live"], b["cached"], b["free"], show.size(b["live"] * b["size"])) for b in s["bins"] if b["slabs"]]
    if rows:
        lines += ["  " + line for line in show.table(rows, ["block B", "slabs", "live", "cached", "free", "live bytes"])]
    return "\n".join(lines)


# Name in Prometheus, name here, type, help.
_METRICS = (
    ("resident_bytes", "rss", "gauge", "Memory of the process."),
    ("peak_resident_bytes", "peak_rss", "gauge", "The most memory that the process had."),
    ("live_small_bytes", "tiny_live", "gauge", "In live blocks of up to 32 KiB, as rounded to block sizes."),
    ("live_large_bytes", "large_live", "gauge", "In live blocks above 32 KiB, as asked for."),
    ("large_blocks", "large_blocks", "gauge", "Live blocks above 32 KiB."),
    ("cached_bytes", "tiny_cached", "gauge", "In blocks that threads' caches hold."),
    ("quarantined_small_bytes", "tiny_quarantined", "gauge", "Of the cached, in freed blocks that wait (hakmem_hardened)."),
    ("quarantined_large_bytes", "large_quarantined", "gauge", "In freed large blocks that wait and have memory (hakmem_hardened)."),
    ("free_block_bytes", "tiny_free", "gauge", "In free blocks of slabs in use."),
    ("dirty_bytes", "dirty", "gauge", "In free slabs that still have memory."),
    ("clean_bytes", "clean", "gauge", "In pages of slabs in use that have no memory."),
    ("committed_bytes", "committed", "gauge", "Addresses of the heap that can be written."),
    ("metadata_bytes", "metadata", "gauge", "The allocator's own."),
    ("returned_bytes_total", "returned", "counter", "Given back to the kernel so far."),
    ("purge_steps_total", "purges", "counter", "Steps of giving memory back."),
    ("refills_total", "refills", "counter", "Times that a thread's cache was filled from the pool."),
    ("spills_total", "spills", "counter", "Times that a thread's cache was emptied into the pool."),
    ("thread_heaps", "heaps", "gauge", "Thread heaps made so far."),
)


def _quoted(value):
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def prometheus(s):
    labels = f'program="{_quoted(s["program"])}",pid="{s["pid"]}",flavour="{_quoted(s["flavour"])}"'
    lines = []
    for name, key, kind, help_text in _METRICS:
        if key in s:
            lines += [f"# HELP hakmem_{name} {help_text}", f"# TYPE hakmem_{name} {kind}", f"hakmem_{name}{{{labels}}} {s[key]}"]
    for state, help_text in (("live", "Live blocks by block size."), ("cached", "Blocks in threads' caches by block size."), ("free", "Free blocks by block size.")):
        lines += [f"# HELP hakmem_bin_{state}_blocks {help_text}", f"# TYPE hakmem_bin_{state}_blocks gauge"]
        for b in s["bins"]:
            if b["slabs"]:
                lines.append(f'hakmem_bin_{state}_blocks{{{labels},size="{b["size"]}"}} {b[state]}')
    return "\n".join(lines) + "\n"
