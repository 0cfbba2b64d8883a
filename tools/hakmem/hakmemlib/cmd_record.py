# SPDX-License-Identifier: Apache-2.0
"""hakmem record: a program's allocations as a file, for hakmem replay."""

import argparse
import glob
import os
import re
import signal
import subprocess
import sys

from . import Failure, cmd_replay, cmd_run, show

HELP = "run a program on hakmem, and record its allocations and frees"

_FILE = "hakmem.%p.trace"


def add_arguments(parser):
    parser.add_argument("-o", "--output", metavar="FILE", default=_FILE, help=f"the trace; %%p is the process's number (default {_FILE.replace('%', '%%')})")
    parser.add_argument("--library", metavar="FILE", help="the library to use, as of hakmem run")
    parser.add_argument("--replayer", metavar="FILE", help="the program that reads the trace, as of hakmem replay")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="any other setting, without HAKMEM_")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGUMENT ...]")


def _traces(pattern):
    """{path: a value that differs between files} for the files that a pattern may have led to."""
    folder, name = os.path.split(os.path.abspath(pattern))
    stem, dot, rest = name[1:].partition(".")
    parts = [name] if "%p" in name else [name[:1] + stem, dot + rest]
    marks = {"%p": "[0-9]+", "%t": "[0-9]+", "%n": "[0-9]+", "%%": "%"}
    parts = ["".join(marks.get(word) or re.escape(word) for word in re.split("(%[ptn%])", part)) for part in parts]
    names = re.compile(r"(\.[0-9]+)?".join(parts))  # without %p children put their number in front of the extension
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "*")):
        if names.fullmatch(os.path.basename(path)):
            status = os.stat(path)
            found[path] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def _run(path, program, env):
    """The program's exit status, as a shell has it. Signals that would end this command go to the program."""
    child = subprocess.Popen(program, executable=path, env=env)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: child.send_signal(received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    code = child.wait()
    return 128 - code if code < 0 else code


def run(args):
    program, path = cmd_run.find_program(args.program)
    library = cmd_run.find_library(args.library)
    problems, remarks = cmd_run.check(path)
    for remark in remarks:
        show.warn(remark)
    if problems:
        raise Failure("; ".join(problems), 125)
    replayer = cmd_replay.find_replayer(args.replayer, 125)
    env = cmd_run.preloading(library, os.environ)
    env.update(cmd_run.settings(args.set))
    env["HAKMEM_RECORD"] = os.path.abspath(args.output)
    before = _traces(args.output)
    sys.stdout.flush()
    try:
        code = _run(path, program, env)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", 126) from None
    made = sorted(trace for trace, what in _traces(args.output).items() if before.get(trace) != what)
    for trace in made:
        try:
            about = cmd_replay.about(replayer, trace)
        except Failure as failure:
            show.warn(str(failure))
            continue
        calls = about["malloc"] + about["calloc"] + about["aligned"] + about["realloc"] + about["free"]
        print(f"hakmem: {os.path.relpath(trace)}: {about['program']}, {calls} calls of {about['threads']} thread{'s' * (about['threads'] != 1)} in {about['milliseconds'] / 1000:.1f} s, at most {show.size(about['peak_live_bytes'])} live", file=sys.stderr)
        if about["stopped"] or about["lost"]:
            show.warn(f"{trace} is not whole: " + ("the file could not grow" if about["stopped"] else f"{about['lost']} calls are missing"))
    if not made:
        show.warn(f"there is no trace: {path} was not served, or made no call")
        return code or 125
    return code
