# SPDX-License-Identifier: Apache-2.0
"""The command line."""

import argparse
import importlib
import os
import struct
import sys

from . import Failure, cmd_run
from .memory import Unreadable

COMMANDS = ("run", "stat", "top", "map", "where", "serve", "profile", "tune", "record", "replay")


def _parser():
    parser = argparse.ArgumentParser(
        prog="hakmem",
        description="Shows the heap of a program that hakmem serves, from outside, without stopping the program.",
        epilog="`hakmem COMMAND --help` says more; so does hakmem(1).",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module("." + "cmd_" + name, __package__)
        command = commands.add_parser(name, help=module.HELP, description=module.HELP[0].upper() + module.HELP[1:] + ".")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments):
    if arguments[:1] == ["run"]:
        arguments = ["run"] + cmd_run.complete(arguments[1:])
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except Failure as failure:
        print(f"hakmem: {failure}", file=sys.stderr)
        return failure.status
    except Unreadable as error:
        print(f"hakmem: the memory at {error} cannot be read: it has changed meanwhile, or is not in the core file", file=sys.stderr)
        return 1
    except (struct.error, LookupError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        # A program that has overwritten the allocator's data, or a damaged file, may have any number in any place.
        print(f"hakmem: what was read makes no sense: it is damaged, or was changed meanwhile ({type(error).__name__}: {error})", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
