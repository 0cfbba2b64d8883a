# SPDX-License-Identifier: Apache-2.0
"""Profiles: pprof's profile.proto (gzipped or not), and folded stacks (`a;b;c 17` a line)."""

import collections
import gzip
import os
import shutil
import subprocess
import zlib

from . import NO_TARGET, Failure, elf

Mapping = collections.namedtuple("Mapping", "start end offset path build_id")


def _varint(raw, at):
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("a number without an end")


def fields(raw):
    """(number, value) of each field of a message; a value is a number or bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(raw, at)
        elif kind == 2:
            size, at = _varint(raw, at)
            if at + size > len(raw):
                raise IndexError("cut short")
            value, at = raw[at : at + size], at + size
        elif kind == 1:
            value, at = raw[at : at + 8], at + 8
        elif kind == 5:
            value, at = raw[at : at + 4], at + 4
        else:
            raise ValueError("no such kind of field")
        yield key >> 3, value


def _numbers(value):
    """A repeated number, packed or not."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _signed(number):
    return number - (1 << 64) if number >> 63 else number


class Profile:
    """types: names of the values; samples: (stack from the outermost frame to the innermost, values); period: bytes
    from sample to sample on average, 0 if the profile doesn't say."""

    def __init__(self, types, samples, period=0):
        self.types, self.samples, self.period = types, samples, period


def load(path):
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", NO_TARGET) from None
    try:
        if raw[:2] == b"\x1f\x8b":
            return _demangled(_proto(gzip.decompress(raw)))
        return _demangled(_folded(raw) if _is_text(raw) else _proto(raw))
    except (LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, zlib.error) as error:
        # Any fault in a file shows as one of these: a number in the place of a message, the number of a string that
        # does not exist, and so on.
        raise Failure(f"{path}: neither a profile of pprof's format nor folded stacks ({error})") from None


def _demangled(profile):
    """The profile with names as they are written in C++ and Rust. The library writes them as symbols have them."""
    names = sorted({name for stack, _ in profile.samples for name in stack if name.startswith(("_Z", "_R"))})
    tool = shutil.which("c++filt")
    if names and tool:
        done = subprocess.run([tool], input="\n".join(names) + "\n", capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        plain = dict(zip(names, lines)) if len(lines) == len(names) else {}
        profile.samples = [(tuple(plain.get(name, name) for name in stack), values) for stack, values in profile.samples]
    return profile


def _is_text(raw):
    return all(byte >= 32 or byte in b"\t\r\n" for byte in raw[:4096])


def _folded(raw):
    samples = []
    for line in raw.decode("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            stack, _, value = line.rpartition(" ")
            samples.append((tuple(stack.split(";")), (int(value),)))
    return Profile(["bytes"], samples)


def _proto(raw):
    strings, types, samples, mappings, locations, functions, period = [], [], [], {}, {}, {}, 0
    for number, value in fields(raw):
        if number == 6:
            strings.append(value.decode("utf-8", "replace"))
        elif number == 1:
            types.append(dict(fields(value)))
        elif number == 2:
            stack, values = [], []
            for n, v in fields(value):
                if n == 1:
                    stack += _numbers(v)
                elif n == 2:
                    values += map(_signed, _numbers(v))
            samples.append((stack, tuple(values)))
        elif number == 3:
            f = dict(fields(value))
            mappings[f.get(1, 0)] = f
        elif number == 4:
            location = {"lines": []}
            for n, v in fields(value):
                if n == 4:
                    location["lines"].append(dict(fields(v)).get(1, 0))
                else:
                    location[n] = v
            locations[location.get(1, 0)] = location
        elif number == 5:
            f = dict(fields(value))
            functions[f.get(1, 0)] = f
        elif number == 12 and isinstance(value, int):
            period = _signed(value)
    if not types or not strings:
        raise ValueError("no sample types")
    if any(len(values) != len(types) for _, values in samples):
        raise ValueError("a sample with other values than there are types")
    maps = {i: Mapping(f.get(2, 0), f.get(3, 0), f.get(4, 0), strings[f.get(5, 0)], strings[f.get(6, 0)]) for i, f in mappings.items()}
    names = _names(locations, functions, strings, maps)
    done = [(tuple(name for i in reversed(stack) for name in names[i]), values) for stack, values in samples]
    return Profile([strings[t.get(1, 0)] for t in types], done, max(period, 0))


def _names(locations, functions, strings, maps):
    """For each location its functions, the outermost first."""
    names, unknown = {}, collections.defaultdict(list)
    for i, location in locations.items():
        found = [strings[functions[f].get(2, 0)] for f in location["lines"] if f in functions]
        if found:
            names[i] = found[::-1]
        else:
            unknown[location.get(2, 0)].append((i, location.get(3, 0)))
    for mapping, wanted in unknown.items():
        names.update(symbolize(maps.get(mapping), wanted))
    return names


def symbolize(mapping, wanted):
    """Names for addresses of one file, by its symbols."""
    if mapping is None or "\0" in mapping.path:
        return {i: [f"{address:#x}"] for i, address in wanted}
    base = os.path.basename(mapping.path) or "?"
    unknown = {i: [f"{base}+{address - mapping.start:#x}"] for i, address in wanted}
    if not os.path.isfile(mapping.path):
        return unknown
    try:
        with elf.File(mapping.path) as file:
            loads = file.header.of(elf.PT_LOAD)
            static = file.static_address(mapping.start, mapping.offset, loads)
            build_id = next((n.content.hex() for n in file.notes() if n.owner == "GNU" and n.type == 3), "")
            functions = file.functions()
    except (OSError, elf.NotElf):
        return unknown
    if mapping.build_id and build_id and mapping.build_id != build_id:
        return unknown
    tool = shutil.which("addr2line")
    answers, known = [], []
    if tool:
        text = "".join(f"{address - static:#x}\n" for _, address in wanted)
        done = subprocess.run([tool, "-f", "-C", "-i", "-a", "-e", mapping.path], input=text, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if line.startswith("0x"):
                answers.append([])
                known.append(False)
                place = False
            elif place:
                place = False
                # For a file without debug information addr2line prints the nearest symbol before an address, however
                # far away.
                known[-1] = known[-1] or not line.startswith("??")
            else:
                answers[-1].append(line)
                place = True
    found = {}
    for at, (i, address) in enumerate(wanted):
        names = [n for n in answers[at] if n != "??"] if at < len(answers) else []
        if names and not known[at] and not elf.is_in(functions, address - static):
            names = []
        found[i] = names[::-1] or [f"{base}+{address - static:#x}"]
    return found
