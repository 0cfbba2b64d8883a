#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""observe.py [OPTIONS]: what heap profiles and guarded blocks cost programs, beside those of other mallocs.

Python, a compiler and redis run on a malloc whose profile or guards are on, and at the same time, on another CPU, on
the same malloc with all off; then once more with the CPUs swapped. So what disturbs the machine disturbs both. A cost
is the CPU time (user and system, children included) over that of the other: the mean of a pair and its swapped pair,
the median over the rounds and its 95 % interval. Pairs of which both are off show what a pair differs by itself. Pairs
during which other processes had more than a tenth of a CPU are thrown away and made again later.
"""
import argparse
import concurrent.futures
import math
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
HAKMEM = os.path.join(HERE, os.pardir, "bazel-bin", "libhakmem_c23.so")

# Name -> (which malloc, the settings that switch it on; DIR is an empty directory for files).
VARIANTS = {
    "hakmem, off": ("hakmem", {}),
    "hakmem, profile": ("hakmem", {"HAKMEM_PROFILE": "DIR/%p.pb.gz"}),
    "hakmem, guards 5000": ("hakmem", {"HAKMEM_GUARD": "5000"}),
    "jemalloc, prof": ("jemalloc", {"MALLOC_CONF": "prof:true,lg_prof_sample:19,prof_final:true,prof_prefix:DIR/je"}),
    "tcmalloc, sampling": ("tcmalloc", {"TCMALLOC_SAMPLE_PARAMETER": "524288"}),
}
# All allocations and frees are recorded, which takes up to a hundred times as long: only with --heapprofile.
HEAPPROFILE = {"tcmalloc, HEAPPROFILE": ("tcmalloc", {"HEAPPROFILE": "DIR/tc"})}


def start(command, cpu, env):
    # pylint: disable=consider-using-with
    return subprocess.Popen(["taskset", "-c", str(cpu), *command], env=env, stdout=subprocess.DEVNULL)


def cpu_of(process):
    """CPU seconds, the children's included, of a process when it has ended, which must be well."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"observe: {process.args} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def run_command(command, cpu, env, _):
    return cpu_of(start(command, cpu, env))


def run_redis(redis, cpu, env, directory):
    """The server's CPU time for the commands of redis-benchmark, which has the same CPU."""
    socket = os.path.join(directory, "socket")
    server = start(
        [os.path.join(redis, "redis-server"), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory],
        cpu, env)
    while not os.path.exists(socket):
        time.sleep(0.01)
    load = [os.path.join(redis, "redis-benchmark"), "-s", socket, "-q", "-n", "100000", "-r", "50000", "-d", "120",
            "-P", "16", "-t", "set,get,lpush,lpop,sadd,hset,spop,zadd,mset"]
    cpu_of(start(load, cpu, os.environ))
    server.send_signal(signal.SIGTERM)
    return cpu_of(server)


def programs(args):
    """Name -> (how it is run, what, settings of its own)."""
    text = os.path.join(HERE, "programs", "text.py")
    templates = os.path.join(HERE, "programs", "templates.cc")
    compiler = ["g++", "-std=c++17", "-O1", "-c", templates, "-o", "/dev/null"]
    found = {
        "python3": (run_command, [args.python, "-S", text], {}),
        "python3, PYTHONMALLOC=malloc": (run_command, [args.python, "-S", text], {"PYTHONMALLOC": "malloc"}),
        "g++": (run_command, compiler, {}),
    }
    if args.redis:
        found["redis-server"] = (run_redis, args.redis, {})
    return found


def measure(program, variant, libraries, cpu):
    run, what, settings = program
    malloc, own = variant
    with tempfile.TemporaryDirectory() as directory:
        env = dict(os.environ, LD_PRELOAD=libraries[malloc], **settings)
        env.update({name: value.replace("DIR", directory) for name, value in own.items()})
        return run(what, cpu, env, directory)


def pair(program, variant, libraries, cpus):
    """CPU seconds with the variant off and on, at the same time."""
    off = (variant[0], {})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(measure, program, v, libraries, cpu) for v, cpu in zip((off, variant), cpus)]
        return [one.result() for one in both]


def others_had():
    """CPU seconds of the machine that are not this program's and its children's."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, irq, softirq = (int(word) for word in stat.readline().split()[1:8])
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy - sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def is_quiet(call):
    """What a call returns, and whether others had less than a tenth of a CPU during it."""
    began, before = time.monotonic(), others_had()
    found = call()
    return found, (others_had() - before) / (time.monotonic() - began) < 0.1


def quiet_pairs(program, variant, libraries, cpus):
    """A pair and its swapped pair, made again until nobody disturbs them."""
    while True:
        while not is_quiet(lambda: time.sleep(1))[1]:
            pass
        both, quiet = is_quiet(lambda: [pair(program, variant, libraries, order) for order in (cpus, cpus[::-1])])
        if quiet:
            return both


def interval(values):
    """A 95 % interval of the median, from the values in order: how many of n are below it is binomial."""
    n, cut, tail = len(values), 0, 0.5 ** len(values)
    while tail < 0.025 and cut < (n - 1) // 2:
        cut += 1
        tail += math.comb(n, cut) * 0.5**n
    return values[max(cut - 1, 0)], values[min(n - cut, n - 1)]


def row(name, pairs):
    off, on = zip(*pairs)
    costs = [100 * (b / a - 1) for a, b in pairs]
    costs = sorted((first + second) / 2 for first, second in zip(costs[::2], costs[1::2]))
    low, high = interval(costs)
    return (f"| {name} | {min(off):.3f}, {statistics.median(off):.3f} | {min(on):.3f}, {statistics.median(on):.3f} "
            f"| {statistics.median(costs):+.1f} % | {low:+.1f} to {high:+.1f} % | {100 * (min(on) / min(off) - 1):+.1f} % |")


def report(program, found):
    """The program's table in Markdown."""
    print(f"\n### {program}\n\n| | off: least, median s | on: least, median s | cost | 95 % interval | of the least |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, pairs in found.items():
        print(row(name, pairs))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="rounds, of two pairs each (11)")
    parser.add_argument("--hakmem", default=HAKMEM, help="hakmem's .so (that of bazel-bin)")
    parser.add_argument("--python", default="/usr/bin/python3", help="/usr/bin/python3")
    parser.add_argument("--redis", help="directory of a redis-server that was built with MALLOC=libc")
    parser.add_argument("--programs", help="some of them: python3,g++")
    parser.add_argument("--heapprofile", action="store_true", help="tcmalloc's HEAPPROFILE too, which takes minutes")
    parser.add_argument("--variants", help="only variants whose names have one of these words: hakmem,jemalloc")
    return parser.parse_args()


def main():
    args = parse()
    if args.heapprofile:
        VARIANTS.update(HEAPPROFILE)
    libraries = {"hakmem": os.path.abspath(args.hakmem), "jemalloc": f"{LIBRARIES}/libjemalloc.so.2",
                 "tcmalloc": f"{LIBRARIES}/libtcmalloc.so.4"}
    libraries = {name: path for name, path in libraries.items() if os.path.exists(path)}
    words = args.variants.split(",") if args.variants else [""]
    names = [name for name, (malloc, _) in VARIANTS.items()
             if malloc in libraries and any(word in name for word in words)]
    chosen = {name: program for name, program in programs(args).items()
              if not args.programs or name in args.programs.split(",")}
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("observe: needs two CPUs")
    found = {program: {name: [] for name in names} for program in chosen}
    for turn in range(args.runs):
        for name, program in chosen.items():
            for variant in random.sample(names, len(names)):
                found[name][variant] += quiet_pairs(program, VARIANTS[variant], libraries, (cpus[0], cpus[-1]))
        print(f"\n{turn + 1} rounds, {len(cpus)} CPUs, load {os.getloadavg()[0]:.1f}; "
              f"{shutil.which('g++')}, {args.python}, {args.redis or 'no redis'}")
        for name, pairs in found.items():
            report(name, pairs)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
