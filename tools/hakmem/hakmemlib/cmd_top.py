# SPDX-License-Identifier: Apache-2.0
"""hakmem top: the processes that hakmem serves."""

import os
import sys
import time

from . import Failure, elf, show
from .cmd_stat import gather
from .memory import Process, Unreadable

HELP = "list the processes that hakmem serves, again and again"

_KEYS = {"rss": "rss", "live": "live", "cached": "tiny_cached", "free": "tiny_free", "dirty": "dirty", "pid": "pid"}


def add_arguments(parser):
    parser.add_argument("-d", "--delay", metavar="SECONDS", type=float, default=2.0, help="between two looks (default 2)")
    parser.add_argument("-n", "--count", metavar="N", type=int, help="end after N looks (default: 1 if the output is not a terminal)")
    parser.add_argument("-s", "--sort", choices=_KEYS, default="rss", help="largest first (default rss)")
    parser.add_argument("-p", "--pid", type=int, action="append", help="only these processes")


class _Finder:
    """Knows which files have hakmem in them, so that a look at a process costs little."""

    def __init__(self):
        self._known = {}

    def _has(self, pid, mapping):
        key = mapping.inode, mapping.path
        if key not in self._known:
            try:
                with elf.File(f"/proc/{pid}/root{mapping.path}") as file:
                    self._known[key] = file.has_note()
            except (OSError, elf.NotElf):
                self._known[key] = False
        return self._known[key]

    def processes(self, only):
        for name in os.listdir("/proc"):
            if not name.isdigit() or (only and int(name) not in only):
                continue
            try:
                process = Process(int(name))
                if any(m.offset == 0 and m.inode and m.path.startswith("/") and self._has(name, m) for m in list(process.mappings())):
                    yield process
            except Failure:
                continue


def look(finder, only, key):
    rows = []
    for process in finder.processes(only):
        try:
            rows.append(gather(process))
        except (Failure, Unreadable):
            continue  # it has ended, or is being started
    rows.sort(key=lambda s: s[_KEYS[key]], reverse=key != "pid")
    return rows


def lines(rows):
    cells = [
        (s["pid"], s["program"], s["flavour"].replace("hakmem_", ""), show.mib(s["rss"]), show.mib(s["live"]), show.mib(s["tiny_cached"]), show.mib(s["tiny_free"]), show.mib(s["dirty"]), s["threads"])
        for s in rows
    ]
    yield from show.table(cells, ["PID", "PROGRAM", "FLAVOUR", "RSS MiB", "LIVE", "CACHED", "FREE", "DIRTY", "THREADS"], left=(1, 2))


def run(args):
    if args.delay <= 0:
        raise Failure("--delay: a time above 0 is wanted", 2)
    terminal = sys.stdout.isatty()
    count = args.count if args.count is not None else (0 if terminal else 1)
    finder = _Finder()
    done = 0
    while True:
        rows = look(finder, args.pid, args.sort)
        if terminal:
            height = os.get_terminal_size().lines
            print("\033[H\033[J" + "\n".join(list(lines(rows))[: height - 1]), flush=True)
        else:
            print("\n".join(lines(rows)), flush=True)
        done += 1
        if done == count:
            return 0
        time.sleep(args.delay)
