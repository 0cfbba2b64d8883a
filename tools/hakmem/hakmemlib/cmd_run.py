# SPDX-License-Identifier: Apache-2.0
"""hakmem run: a program on hakmem, with statistics, profiles and so on switched on."""

import argparse
import os
import shutil
import stat
import sys
import time

from . import Failure, elf, show

HELP = "run a program on hakmem, after a check that it will be served"

_LIBRARY = "libhakmem_c23.so"
_PROFILE = "hakmem.%p.pb.gz"
_MALLOC = {"malloc", "free", "calloc", "realloc"}
_OTHERS = ("libjemalloc", "libtcmalloc", "libmimalloc")


def add_arguments(parser):
    parser.add_argument("--library", metavar="FILE", help=f"the library to use (default: {_LIBRARY}, of the build or as installed)")
    parser.add_argument("--stats", metavar="[=FILE]", help="print statistics at the end, or, as --stats=FILE, write them to FILE; %%p is the process's number")
    parser.add_argument("--profile", metavar="[=FILE]", help=f"write a heap profile, to FILE if it is --profile=FILE, or else to {_PROFILE.replace('%', '%%')}")
    parser.add_argument("--leaks", action="store_true", help="say at the end which blocks are lost, by the calls that allocated them; exactly, unless --set PROFILE_RATE=BYTES says to sample")
    parser.add_argument("--guard", metavar="N", type=int, help="put one allocation in about N against a guard page")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="any other setting, without HAKMEM_ (as DECAY_MS=0)")
    parser.add_argument("--check", action="store_true", help="only say whether the program would be served")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGUMENT ...]")


def complete(arguments):
    """The command line with values for the options that may be without one."""
    defaults = {"--stats": "1", "--profile": _PROFILE}
    done = []
    for i, word in enumerate(arguments):
        if not word.startswith("-") and arguments[i - 1 : i] not in (["--library"], ["--guard"], ["--set"]):
            return done + arguments[i:]
        done.append(f"{word}={defaults[word]}" if word in defaults else word)
    return done


def find_library(given, status=125):
    """The library as an absolute path."""
    if given:
        if not os.path.exists(given):
            raise Failure(f"no such library: {given}", status)
        return os.path.realpath(given)
    here = os.path.dirname(os.path.realpath(sys.argv[0]))
    up = os.path.join(here, "..")
    places = [os.path.join(up, "..", "bazel-bin"), here]
    for prefix in (up, "/usr/local", "/usr"):
        places += [os.path.join(prefix, "lib", d) for d in ("x86_64-linux-gnu", "", "hakmem")] + [os.path.join(prefix, "lib64")]
    for place in places:
        for name in (_LIBRARY, _LIBRARY + ".1"):
            path = os.path.join(place, name)
            if os.path.exists(path):
                return os.path.realpath(path)
    raise Failure(f"{_LIBRARY} is not to be found; build it (./bazelw build //:hakmem_c23), or say where it is with --library", status)


def _interpreted(path):
    """The interpreter of a script, as the kernel starts it; None if the file is not a script."""
    with open(path, "rb") as file:
        line = file.readline(256)
    if not line.startswith(b"#!"):
        return None
    words = os.fsdecode(line[2:]).split()
    if words and os.path.basename(words[0]) == "env":
        names = [w for w in words[1:] if not w.startswith("-") and "=" not in w]
        return shutil.which(names[0]) if names else None
    return words[0] if words else None


def _capabilities(path):
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def check(path):
    """(problems, remarks): why a program cannot be served, and remarks on a program that can."""
    problems, remarks = [], []
    seen = []
    while path not in seen and len(seen) <= 4:
        seen.append(path)
        script = _interpreted(path)
        if script is None:
            break
        path = script
    mode = os.stat(path)
    if mode.st_mode & stat.S_ISUID and mode.st_uid != os.geteuid():
        problems.append(f"{path} is set-user-ID: the dynamic linker ignores LD_PRELOAD")
    elif mode.st_mode & stat.S_ISGID and mode.st_mode & stat.S_IXGRP and mode.st_gid != os.getegid():
        problems.append(f"{path} is set-group-ID: the dynamic linker ignores LD_PRELOAD")
    elif _capabilities(path) and os.geteuid() != 0:
        problems.append(f"{path} has file capabilities: the dynamic linker ignores LD_PRELOAD")
    try:
        with elf.File(path) as file:
            own = file.has_note()
            interpreter = file.interpreter()
            if interpreter is None and not own:
                problems.append(f"{path} is statically linked: nothing can be preloaded; link it with hakmem's archive")
            elif interpreter and "musl" in interpreter:
                problems.append(f"{path} uses musl, and hakmem needs glibc")
            if own:
                remarks.append(f"{path} has hakmem linked in")
            elif file.defines(_MALLOC) >= _MALLOC:
                problems.append(f"{path} has a malloc of its own, which comes before any library's")
            for needed in file.needed():
                if needed.startswith(_OTHERS):
                    remarks.append(f"{path} is linked to {needed}: its malloc is replaced, its other functions are not; see docs/use.md, \"Programs that link another allocator\"")
    except elf.NotElf as error:
        problems.append(f"{path} is no program that hakmem can serve: {error}")
    return problems, remarks


def _watch(pid, library):
    """Prints a warning if a process that has started is not served after all. Runs in a process of its own."""
    end = time.monotonic() + 1
    name = os.path.basename(library)
    while time.monotonic() < end:
        time.sleep(0.05)
        try:
            with open(f"/proc/{pid}/maps") as maps:
                text = maps.read()
        except OSError:
            return
        if name in text:
            return
    if text:
        show.warn(f"process {pid} runs, and is not served by {name}")


def _start_watch(library):
    pid = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    if os.fork() == 0:
        try:
            os.setsid()
            _watch(pid, library)
        finally:
            os._exit(0)
    os._exit(0)


def preloading(library, env):
    """The environment with the library in front of what is preloaded otherwise."""
    rest = env.get("LD_PRELOAD", "")
    return dict(env, LD_PRELOAD=f"{library}:{rest}" if rest else library)


def settings(pairs):
    """The environment's part of what --set was given."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise Failure(f"--set {pair}: NAME=VALUE is wanted", 125)
        found["HAKMEM_" + name.removeprefix("HAKMEM_")] = value
    return found


def _from_here(name):
    """The absolute name of a file, because programs change directories. In the directory's part a % is doubled."""
    return os.path.join(os.getcwd().replace("%", "%%"), name)


def environment(args, library):
    env = preloading(library, os.environ)
    stats, profile = args.stats, args.profile
    if stats is not None and ("/" in stats or "." in stats):  # else it is a word
        stats = _from_here(stats)
    if profile is not None:
        profile = _from_here(profile)
    wanted = {"STATS": stats, "PROFILE": profile, "LEAKS": "1" if args.leaks else None, "GUARD": args.guard}
    env.update({f"HAKMEM_{name}": str(value) for name, value in wanted.items() if value is not None})
    if args.leaks:  # all blocks, unless it is to be quick: at the default rate a few lost blocks are no sample
        env.setdefault("HAKMEM_PROFILE_RATE", "1")
    env.update(settings(args.set))
    return env


def _hint(args):
    """For `--profile FILE PROGRAM`, in which FILE is taken for the program."""
    option = "--profile" if args.profile == _PROFILE else "--stats" if args.stats == "1" else None
    words = args.program
    return f" (a file follows an equals sign: {option}={words[0]})" if option and words[1:] and shutil.which(words[1]) else ""


def find_program(words, hint=""):
    """(command line, path) of the program that the rest of the arguments name."""
    program = words[1:] if words[:1] == ["--"] else words
    if not program:
        raise Failure("no program given", 125)
    path = shutil.which(program[0])
    if path is None:
        if os.path.exists(program[0]):
            raise Failure(f"{program[0]}: not a program that can be executed{hint}", 126)
        raise Failure(f"{program[0]}: no such program{hint}", 127)
    return program, path


def run(args):
    program, path = find_program(args.program, _hint(args))
    library = find_library(args.library)
    problems, remarks = check(path)
    for remark in remarks:
        show.warn(remark)
    if problems:
        raise Failure("; ".join(problems), 125)
    if args.check:
        print(f"{path} would be served by {library}")
        return 0
    env = environment(args, library)
    sys.stdout.flush()
    _start_watch(library)
    try:
        os.execve(path, program, env)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", 126) from None
