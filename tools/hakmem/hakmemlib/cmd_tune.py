# SPDX-License-Identifier: Apache-2.0
"""hakmem tune: which settings are better for a program."""

import argparse
import os
import random
import shutil
import sys
import time

from . import Failure, cmd_run, show

HELP = "run a program under several settings, and recommend settings"

# What is tried, one setting at a time against the defaults.
SETTINGS = (
    ("defaults", {}),
    ("DECAY_MS=0", {"HAKMEM_DECAY_MS": "0"}),
    ("DECAY_MS=5000", {"HAKMEM_DECAY_MS": "5000"}),
    ("DECAY_MS=-1", {"HAKMEM_DECAY_MS": "-1"}),
    ("THP=0", {"HAKMEM_THP": "0"}),
    ("THP=1", {"HAKMEM_THP": "1"}),
    ("BACKGROUND=1", {"HAKMEM_BACKGROUND": "1"}),
)


def add_arguments(parser):
    parser.add_argument("--library", metavar="FILE", help="the library to use, as of hakmem run")
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="runs of each setting (default 7); more make the intervals narrower")
    parser.add_argument("--try", dest="tried", metavar="NAME=VALUE", action="append", default=[], help="settings to try instead, without HAKMEM_; several with a comma between them are set together")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGUMENT ...]")


def choices(tried):
    if not tried:
        return list(SETTINGS)
    found = [SETTINGS[0]]
    for text in tried:
        pairs = [pair.partition("=") for pair in text.split(",")]
        if not all(equals for _, equals, _ in pairs):
            raise Failure(f"--try {text}: NAME=VALUE is wanted", 2)
        found.append((text, {f"HAKMEM_{name}": value for name, _, value in pairs}))
    return found


def measure(path, words, env):
    """(seconds, seconds of CPU, peak RSS in bytes) of one run."""
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execve(path, words, env)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(pid, 0)
    took = time.monotonic() - begun
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise Failure(f"{words[0]} has ended with {code}: a run that fails says nothing")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def interval(values, base, chance, draws=1000):
    """The 95 % interval of the ratio of two medians, by a bootstrap; runs of one round are drawn together."""
    rounds = range(len(values))
    ratios = []
    for _ in range(draws):
        drawn = [chance.choice(rounds) for _ in rounds]
        ratios.append(median([values[i] for i in drawn]) / (median([base[i] for i in drawn]) or 1e-9))
    ratios.sort()
    return ratios[int(draws * 0.025)], ratios[int(draws * 0.975) - 1]


def advice(results):
    """Lines that say what to set; results: [(name, [ratio intervals of time, CPU and memory])]."""
    said = []
    for what, at in (("time", 0), ("CPU time", 1), ("peak memory", 2)):
        better = [(high, name) for name, intervals in results for low, high in [intervals[at]] if high < 0.99]
        if better:
            high, name = min(better)
            others = [f"{w} {100 * (i[0] - 1):+.0f} to {100 * (i[1] - 1):+.0f} %" for w, i in zip(("time", "CPU time", "peak memory"), dict(results)[name]) if w != what]
            said.append(f"for less {what}: HAKMEM_{name.replace(',', ' HAKMEM_')} (at least {100 * (1 - high):.0f} % less; {', '.join(others)})")
    return said or ["none of them is better than the defaults, as far as these runs can tell: set nothing"]


def run(args):
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    path = shutil.which(program[0]) if program else None
    if path is None:
        raise Failure(f"{program[0]}: no such program" if program else "no program given", 127 if program else 2)
    if args.rounds < 3:
        raise Failure("--rounds: 3 at least", 2)
    problems, _ = cmd_run.check(path)
    if problems:
        raise Failure("; ".join(problems), 125)
    library = cmd_run.find_library(args.library)
    tried = choices(args.tried)
    base = cmd_run.preloading(library, {name: value for name, value in os.environ.items() if not name.startswith("HAKMEM_")})
    found = {name: [] for name, _ in tried}
    chance = random.Random(1)
    measure(path, program, base)  # once for the file cache
    for done in range(args.rounds):
        order = list(tried)
        chance.shuffle(order)  # so that other work on the machine disturbs all of them alike
        for name, settings in order:
            found[name].append(measure(path, program, dict(base, **settings)))
        if sys.stderr.isatty():
            print(f"\rround {done + 1} of {args.rounds}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    plain = list(zip(*found["defaults"]))
    rows, results = [("defaults", f"{median(plain[0]):.3f} s", f"{median(plain[1]):.3f} s", show.size(median(plain[2])))], []
    for name, _ in tried[1:]:
        intervals = [interval(values, reference, chance) for values, reference in zip(zip(*found[name]), plain)]
        results.append((name, intervals))
        rows.append([name] + [f"{100 * (low - 1):+.1f} .. {100 * (high - 1):+.1f} %" for low, high in intervals])
    print("\n".join(show.table(rows, ["setting", "time", "CPU", "peak RSS"], left=(0,))))
    print("\n".join(advice(results)))
    return 0
