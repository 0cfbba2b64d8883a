# SPDX-License-Identifier: Apache-2.0
"""hakmem replay: compares mallocs by a recorded program's allocations."""

import glob
import json
import os
import random
import re
import subprocess
import sys

from . import Failure, cmd_run, cmd_tune, show

HELP = "replay a trace on several mallocs, side by side"

# Names that stand for libraries, as Debian installs them.
_KNOWN = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.[0-9]*",
    "hoard": "libhoard.so*",
    "tbb": "libtbbmalloc_proxy.so.2",
}
_SHOWN = (
    ("time", "seconds", lambda value: f"{value:.3f} s"),
    ("CPU", "cpu", lambda value: f"{value:.3f} s"),
    ("peak RSS", "peak_rss", show.size),
    ("RSS at the end", "end_rss", show.size),
    ("page faults", "faults", lambda value: f"{value:.0f}"),
)


def add_arguments(parser):
    parser.add_argument("--allocators", metavar="LIST", help="mallocs with commas between them: glibc, hakmem, " + ", ".join(_KNOWN) + ", or shared objects; settings may follow one, as hakmem:DECAY_MS=0:THP=1 or jemalloc:MALLOC_CONF=narenas:1 (a comma in them as \\,); the first is what the others are compared to (default: glibc, hakmem, and what else is installed)")
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="runs of each (default 7); more make the intervals narrower")
    parser.add_argument("--paced", action="store_true", help="keep to the times of the recording, pauses and all: what is idle goes back as it did")
    parser.add_argument("--touch", choices=("none", "pages", "all"), default="pages", help="what is written to blocks: nothing, a byte a page, or all of them (default pages)")
    parser.add_argument("--json", action="store_true", help="as one JSON object, with the figures of each run")
    parser.add_argument("--info", action="store_true", help="only say what is in the trace")
    parser.add_argument("--library", metavar="FILE", help="the library that the name hakmem stands for, as of hakmem run")
    parser.add_argument("--replayer", metavar="FILE", help="the program that replays (default: hakmem-replay, of the build or as installed)")
    parser.add_argument("trace", metavar="TRACE")


def find_replayer(given, status=1):
    here = os.path.dirname(os.path.realpath(sys.argv[0]))
    places = [given] if given else [os.path.join(here, "hakmem-replay"), os.path.join(here, "../../bazel-bin/tools/replay/hakmem-replay")]
    for path in places:
        if os.access(path, os.X_OK):
            return os.path.realpath(path)
    raise Failure(f"no such program: {given}" if given else "hakmem-replay is not to be found; build it (bazel build //tools/replay:hakmem-replay), or say where it is with --replayer", status)


def _call(replayer, env, *arguments):
    done = subprocess.run([replayer, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().removeprefix("hakmem-replay: ")
        raise Failure(said.splitlines()[-1] if said else f"hakmem-replay has ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _bare():
    """The environment without settings of any malloc."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("HAKMEM_", "MALLOC_", "MIMALLOC_", "TCMALLOC_")) and name not in ("LD_PRELOAD", "GLIBC_TUNABLES")}


def about(replayer, trace):
    return _call(replayer, _bare(), "--info", trace)


def _folders():
    return ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/usr/lib64", "/usr/lib"]


def _installed(name):
    """The library that a known name stands for; None if there is none."""
    for folder in _folders():
        found = sorted(glob.glob(os.path.join(folder, _KNOWN[name])))
        if found:
            return os.path.realpath(found[0])
    return None


def _choice(word, library):
    """(name, environment) of a malloc with its settings."""
    name, *pairs = re.split(r":(?=[A-Za-z_]\w*=)", word)
    env = _bare()
    if name == "hakmem":
        env["LD_PRELOAD"] = cmd_run.find_library(library, 2)
    elif name in _KNOWN:
        path = _installed(name)
        if path is None:
            raise Failure(f"{name} is not installed", 2)
        env["LD_PRELOAD"] = path
    elif name != "glibc":
        if not os.path.exists(name):
            raise Failure(f"{name} is neither a shared object nor one of glibc, hakmem, {', '.join(_KNOWN)}", 2)
        env["LD_PRELOAD"] = os.path.realpath(name)
    hakmem = "libhakmem" in os.path.basename(env.get("LD_PRELOAD", ""))
    for pair in pairs:
        key, _, value = pair.partition("=")
        env[f"HAKMEM_{key}" if hakmem and not key.startswith("HAKMEM_") else key] = value
    return word, env


def choices(text, library):
    if text:
        words = [word.replace("\\,", ",") for word in re.split(r"(?<!\\),", text) if word]
    else:
        words = ["glibc", "hakmem"] + [name for name in _KNOWN if _installed(name)]
    if len(set(words)) != len(words) or not words:
        raise Failure(f"--allocators {text}: different ones are wanted", 2)
    return [_choice(word, library) for word in words]


def _measure(replayer, env, arguments, name):
    got = _call(replayer, env, *arguments)
    if got["refused"]:
        raise Failure(f"{name} has refused {got['refused']} allocations")
    got["cpu"] = got["user"] + got["system"]
    return got


def _served(replayer, env):
    """Whether a library can be preloaded: if not, the dynamic linker prints a line on stderr."""
    done = subprocess.run([replayer, "--help"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return "cannot be preloaded" not in done.stderr


def _print_about(found):
    print(f"{found['program']}: {found['malloc']} malloc, {found['calloc']} calloc, {found['aligned']} aligned, {found['realloc']} realloc, {found['free']} free")
    print(f"{found['threads']} thread{'s' * (found['threads'] != 1)}, {found['milliseconds'] / 1000:.1f} s, {show.size(found['allocated_bytes'])} asked for, at most {show.size(found['peak_live_bytes'])} live, {show.size(found['live_bytes'])} at the end")
    if found["unknown"]:
        print(f"{found['unknown']} frees of blocks that were not seen allocated are left out")
    if found["stopped"] or found["lost"]:
        show.warn("the trace is not whole: " + ("its file could not grow" if found["stopped"] else f"{found['lost']} calls are missing"))


def run(args):
    replayer = find_replayer(args.replayer)
    found = about(replayer, args.trace)
    if args.info:
        print(json.dumps(found)) if args.json else _print_about(found)
        return 0
    if args.rounds < 3:
        raise Failure("--rounds: 3 at least", 2)
    tried = choices(args.allocators, args.library)
    for name, env in tried:
        if not _served(replayer, env):
            raise Failure(f"{name}: {env['LD_PRELOAD']} cannot be preloaded", 2)
    arguments = ["--paced"] * args.paced + ["--touch", args.touch, args.trace]
    chance = random.Random(1)
    results = {name: [] for name, _ in tried}
    for done in range(args.rounds):
        order = list(tried)
        chance.shuffle(order)  # so that other work on the machine disturbs all of them alike
        for name, env in order:
            results[name].append(_measure(replayer, env, arguments, name))
        if sys.stderr.isatty():
            print(f"\rround {done + 1} of {args.rounds}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    if args.json:
        print(json.dumps({"trace": found, "runs": results}))
        return 0
    _print_about(found)
    first = tried[0][0]
    rows = []
    for name, _ in tried:
        row = [name]
        for _, key, text in _SHOWN:
            values = [run[key] for run in results[name]]
            base = [run[key] for run in results[first]]
            shown = text(cmd_tune.median(values))
            if name != first:
                low, high = cmd_tune.interval(values, base, chance)
                shown += f" ({low:.2f} .. {high:.2f})"
            row.append(shown)
        rows.append(row)
    print("\n".join(show.table(rows, ["malloc"] + [title for title, _, _ in _SHOWN], left=(0,))))
    print(f"In parentheses: over {first}'s, the 95 % interval of {args.rounds} interleaved runs; less is better.")
    return 0
