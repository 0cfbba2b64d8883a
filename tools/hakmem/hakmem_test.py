#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs programs on each flavour and holds what `hakmem` says of them to what they say of themselves. It is run in the
runfiles' root, where the libraries and the programs are."""

import base64
import contextlib
import functools
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request
import xml.etree.ElementTree
import zlib

ROOT = os.getcwd()
TOOL = os.path.join(ROOT, "tools/hakmem/hakmem")
PRELOADED = os.path.join(ROOT, "tools/hakmem/heap_program")
# A program that hakmem is linked into, statically and without symbols.
STATIC = os.path.join(ROOT, "tools/hakmem/heap_program_static")
FLAVOURS = ("hakmem_c23", "hakmem_c23_header", "hakmem_classic", "hakmem_c23_debug", "hakmem_hardened")

sys.path.insert(0, os.path.join(ROOT, "tools/hakmem"))
from hakmemlib import Failure, cmd_profile, cmd_tune, elf, layout, main, memory, picture  # noqa: E402


def library(flavour):
    return os.path.join(ROOT, f"lib{flavour}.so")


def hakmem(*arguments, **more):
    """(exit status, stdout, stderr). What starts no program is called, which is quicker than an interpreter each."""
    if arguments[0] not in ("run", "tune", "record", "replay"):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main.main([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), err.getvalue()
    done = subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120, **more)
    return done.returncode, done.stdout, done.stderr


class Program:
    """heap_program, waiting, and what it has said."""

    def __init__(self, flavour=None, **settings):
        env = dict(os.environ, HAKMEM_DECAY_MS="-1", **settings)
        if flavour:
            env["LD_PRELOAD"] = flavour if "/" in flavour else library(flavour)
        path = PRELOADED if flavour else STATIC
        self.process = subprocess.Popen([path], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.blocks, self.stats, self.bins = [], {}, {}
        for line in self.process.stdout:
            kind, *words = line.split()
            if kind == "ready":
                return
            if kind == "block":
                self.blocks.append((int(words[0], 16), int(words[1]), words[2]))
            elif kind == "stat":
                self.stats[words[0]] = int(words[1])
            elif kind == "bin":
                size, slabs, live, cached, free = map(int, words)
                self.bins[size] = {"size": size, "slabs": slabs, "live": live, "cached": cached, "free": free}
        raise AssertionError("the program has ended")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


def each_kind(test):
    """A test of (program, flavour), for each flavour and for a program that has one linked in."""

    @functools.wraps(test)
    def run(self):
        for flavour in FLAVOURS + (None,):
            with self.subTest(flavour or "linked"), Program(flavour) as program:
                test(self, program, flavour or "hakmem_c23")

    return run


class Case(unittest.TestCase):
    def succeeds(self, *arguments, **more):
        status, out, err = hakmem(*arguments, **more)
        self.assertEqual((status, err), (0, ""))
        return out

    def stat(self, target):
        return json.loads(self.succeeds("stat", target, "--json"))

    def where(self, target, *addresses):
        """What is said of each address."""
        return [json.loads(line) for line in self.succeeds("where", target, "--json", *map(hex, addresses)).splitlines()]

    def fails(self, status, pattern, *arguments, **more):
        got, out, err = hakmem(*arguments, **more)
        self.assertRegex(err, pattern)
        self.assertEqual(got, status, err)


class Live(Case):
    @each_kind
    def test_statistics_are_those_of_the_program(self, program, flavour):
        found = self.stat(program.pid)
        self.assertEqual(found["flavour"], flavour)
        self.assertEqual(found["pid"], program.pid)
        self.assertEqual(found["settings"], {"HAKMEM_DECAY_MS": -1})
        self.assertEqual({name: found[name] for name in program.stats}, program.stats)
        self.assertEqual({b["size"]: b for b in found["bins"]}, program.bins)
        self.assertGreater(sum(b["cached"] for b in program.bins.values()), 100)
        self.assertGreater(program.stats["heaps"], 128)

    @each_kind
    def test_where_knows_each_block(self, program, flavour):
        answers = self.where(program.pid, *[block for block, _, _ in program.blocks])
        self.assertEqual(len(answers), len(program.blocks))
        states = set()
        lives = {block for block, _, how in program.blocks if how == "live"}
        for (block, asked, how), answer in zip(program.blocks, answers):
            found = answer["block"]
            if how == "freed" and (found is None or found["start"] != block):
                continue  # its slab has gone back, and may have been put to another use
            if how == "freed" and block in lives:
                continue  # a later block starts where this one did
            self.assertFalse(how == "freed" and found["size"] > 32768 and flavour != "hakmem_hardened", hex(block))
            self.assertEqual((found["start"], answer["offset"]), (block, 0))
            self.assertGreaterEqual(found["size"], asked)
            self.assertIn(found["state"], ("live",) if how == "live" else ("cached", "free", "in quarantine"), (hex(block), asked))
            self.assertNotIn("fault", found)
            states.add(found["state"])
            if asked > 32768:
                self.assertEqual(found["asked"], asked)
        self.assertEqual(states, {"live", "cached", "free"} | ({"in quarantine"} if flavour == "hakmem_hardened" else set()))

    def test_where_knows_what_hardened_knows(self):
        with Program("hakmem_hardened") as program:
            live = [(block, asked) for block, asked, how in program.blocks if how == "live"]
            for (block, asked), answer in zip(live, self.where(program.pid, *[block for block, _ in live])):
                self.assertEqual((answer["block"]["asked"], answer["block"]["state"]), (asked, "live"))
            starts = {block for block, _ in live}
            freed = [(block, asked) for block, asked, how in program.blocks if how == "freed" and block not in starts]
            answers = [a for a in self.where(program.pid, *[block for block, _ in freed]) if a["block"] and a["offset"] == 0]
            waiting = [a["block"] for a in answers if a["block"]["state"] == "in quarantine"]
            self.assertGreater(len([b for b in waiting if b["kind"] == "small"]), 10)
            self.assertEqual([b["asked"] for b in waiting if b["kind"] == "large"], [200000])
            stats = self.stat(program.pid)
            self.assertTrue(0 < stats["tiny_quarantined"] < stats["tiny_cached"], stats)
            self.assertGreaterEqual(stats["large_quarantined"], 200000)
            out = self.succeeds("stat", program.pid)
            self.assertRegex(out, r"(?m)^  in quarantine +\d+\.\d MiB of the cached, \d+\.\d MiB of large blocks$")
            self.assertIn("hakmem_quarantined_large_bytes{", self.succeeds("stat", program.pid, "--prometheus"))
            # A byte behind a live block, and one in a freed block, as a program at fault would write them.
            block, asked = next(b for b in live if 100 < b[1] < 4000)
            old = next(b["start"] for b in waiting if b["kind"] == "small")
            with open(f"/proc/{program.pid}/mem", "r+b", buffering=0) as file:
                for where in (block + asked, old + 3):
                    file.seek(where)
                    was = file.read(1)
                    file.seek(where)
                    file.write(bytes([was[0] ^ 1]))
                self.assertIn(f"({asked} asked for), WRITTEN PAST ITS END", self.succeeds("where", program.pid, f"{block:#x}"))
                text = self.succeeds("where", program.pid, f"{old:#x}")
                self.assertRegex(text, r"in quarantine \(of thread heap \d+\), WRITTEN TO AFTER IT WAS FREED")
                for where in (block + asked, old + 3):  # as it was: the program is to end well
                    file.seek(where)
                    was = file.read(1)
                    file.seek(where)
                    file.write(bytes([was[0] ^ 1]))

    @each_kind
    def test_where_knows_the_inside_of_blocks_and_neighbours(self, program, flavour):
        pairs = [(block, asked) for block, asked, how in program.blocks if how == "live" and asked > 20]
        for (block, asked), answer in zip(pairs, self.where(program.pid, *[block + asked // 2 for block, asked in pairs])):
            self.assertEqual((answer["block"]["start"], answer["offset"]), (block, asked // 2))
            for side in ("before", "behind"):
                beside = answer.get(side)
                if beside and beside["kind"] == "small" == answer["block"]["kind"]:
                    self.assertEqual(beside["start"] < block, side == "before")
                    if block == pairs[0][0]:
                        (again,) = self.where(program.pid, beside["start"])
                        self.assertEqual({k: again["block"][k] for k in ("start", "size", "state")}, {k: beside[k] for k in ("start", "size", "state")})

    def test_where_knows_what_is_no_block(self):
        with Program("hakmem_c23") as program:
            stack = next(m for m in memory.Process(program.pid).mappings() if m.path == "[stack]")
            self.assertIn("[stack]", self.succeeds("where", program.pid, f"{stack.end - 64:#x}"))
            self.assertIn("not mapped", self.succeeds("where", program.pid, "0x10"))
            self.fails(2, "not an address", "where", program.pid, "here")

    def test_where_knows_who_allocated_a_sampled_block(self):
        for flavour in ("hakmem_c23", "hakmem_c23_header"):
            with self.subTest(flavour), tempfile.TemporaryDirectory() as folder, Program(flavour, HAKMEM_PROFILE=folder + "/profile", HAKMEM_PROFILE_RATE="1") as program:
                found = self.stat(program.pid)
                self.assertEqual({name: found[name] for name in program.stats}, program.stats)
                self.assertGreater(found["sampled_live"], 1 << 20)
                self.assertRegex(self.succeeds("stat", program.pid), r"sampled small blocks +[1-9]")
                live = [(block, asked) for block, asked, how in program.blocks if how == "live"]
                answers = self.where(program.pid, *[block + 3 for block, _ in live])
                sampled = 0
                for (block, asked), answer in zip(live, answers):
                    self.assertEqual((answer["block"]["start"], answer["offset"]), (block, 3))
                    if "allocated_at" in answer:
                        self.assertEqual(answer["block"]["asked"], asked)
                        self.assertTrue({"main", "thread"} & set(answer["allocated_at"]), answer)
                        sampled += 1
                self.assertGreater(sampled, len(live) * 0.9)
                freed = next(block for block, asked, how in program.blocks if how == "freed" and asked < 30000)
                self.assertNotIn("allocated_at", self.where(program.pid, freed)[0])
                self.assertIn("allocated in\n", self.succeeds("where", program.pid, f"{live[0][0]:#x}"))

    def test_where_knows_guarded_blocks(self):
        with Program("hakmem_c23", HAKMEM_GUARD="1") as program:
            answers = self.where(program.pid, *[block for block, _, _ in program.blocks])
            guarded = [(a, how) for a, (_, _, how) in zip(answers, program.blocks) if a["block"] and a["block"]["kind"] == "guarded"]
            self.assertGreater(len(guarded), 10)
            for answer, how in guarded:
                self.assertTrue({"main", "thread"} & set(answer["allocated_at"]), answer)
                if answer["block"]["state"] == "freed":
                    self.assertEqual(how, "freed")
                    self.assertTrue({"main", "thread"} & set(answer["freed_at"]), answer)
            live = next(a["block"] for a, how in guarded if how == "live")
            self.assertIn("1 bytes past the end of a guarded block", self.succeeds("where", program.pid, f"{live['start'] + live['size']:#x}"))

    def test_prometheus(self):
        with Program("hakmem_c23") as program:
            lines = self.succeeds("stat", program.pid, "--prometheus").splitlines()
            values = {}
            for line in lines:
                if not line.startswith("#"):
                    name, labels, value = re.fullmatch(r'(\w+)\{((?:\w+="[^"]*",?)+)\} (\d+)', line).groups()
                    values[name, re.search('size="(.*?)"', labels).group(1) if "size=" in labels else ""] = int(value)
                    self.assertIn(f'pid="{program.pid}"', labels)
            self.assertEqual(values["hakmem_live_small_bytes", ""], program.stats["tiny_live"])
            for size, row in program.bins.items():
                if row["slabs"]:
                    self.assertEqual(values["hakmem_bin_live_blocks", str(size)], row["live"])
            names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
            self.assertEqual(len(names), len(set(names)))

    def test_top_has_it(self):
        with Program("hakmem_classic") as program, subprocess.Popen(["sleep", "60"]) as other:
            out = self.succeeds("top", "-n", 1, "-p", program.pid, "-p", other.pid)
            other.kill()
            rows = [line.split() for line in out.splitlines()]
            self.assertEqual([row[:3] for row in rows[1:]], [[str(program.pid), "heap_program", "classic"]])

    def test_process_is_not_stopped_and_not_changed(self):
        with Program("hakmem_c23") as program:
            before = self.stat(program.pid)
            self.succeeds("where", program.pid, f"{program.blocks[0][0]:#x}")
            after = self.stat(program.pid)
            for name in ("refills", "spills", "committed", "tiny_live"):
                self.assertEqual(before[name], after[name])
            self.assertEqual(memory.Process(program.pid).status()["TracerPid"], "0")


class Maps(Case):
    def _page(self, path):
        """The text of a page, and the data in it."""
        with open(path) as file:
            text = file.read()
        return text, json.loads(zlib.decompress(base64.b64decode(re.search(r'atob\("(.*?)"\)', text).group(1))))

    def _sums(self, frame):
        sums = {}
        for row in frame["rows"]:
            for code, size, live, cached, free in row["s"]:
                if code >= picture.BIN:
                    got = sums.setdefault(size, [0, 0, 0, 0])
                    for i, n in enumerate((1, live, cached, free)):
                        got[i] += n
        return sums

    @each_kind
    def test_html_says_what_the_program_says(self, program, flavour):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "map.html")
            self.succeeds("map", program.pid, "-o", path)
            text, data = self._page(path)
        self.assertNotIn("http", text)  # nothing from anywhere
        (frame,) = data["frames"]
        expected = {size: [b["slabs"], b["live"], b["cached"], b["free"]] for size, b in program.bins.items() if b["slabs"]}
        self.assertEqual(self._sums(frame), expected)
        for row in frame["rows"]:
            self.assertEqual(len(base64.b64decode(row["p"])), 3 * 512)

    def test_png_and_svg(self):
        with Program("hakmem_c23") as program, tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "map")
            self.succeeds("map", program.pid, "-o", path + ".png")
            self.succeeds("map", program.pid, "-o", path + ".svg")
            with open(path + ".png", "rb") as file:
                raw = file.read()
            width, height = struct.unpack(">II", raw[16:24])
            at = raw.index(b"IDAT")
            (size,) = struct.unpack(">I", raw[at - 4 : at])
            self.assertEqual(len(zlib.decompress(raw[at + 4 : at + 4 + size])), height * (width + 1))
            rects = xml.etree.ElementTree.parse(path + ".svg").getroot().findall("{http://www.w3.org/2000/svg}rect")
            self.assertGreater(len(rects), 100)
            self.fails(2, "must end in", "map", program.pid, "-o", path + ".gif")
            self.fails(1, "No such file", "map", program.pid, "-o", folder + "/none/map.png")

    def test_record_has_frames(self):
        with Program("hakmem_c23") as program, tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "map.html")
            self.succeeds("map", program.pid, "-o", path, "--record", "0.3", "--every", "0.1")
            text, data = self._page(path)
            self.assertEqual(len(data["frames"]), 4)
            self.assertIn('type="range"', text)


def write_core(pid, path, without_files):
    """A core file as the kernel writes it: what is private and written, and the first pages of files."""
    process = memory.Process(pid)
    mappings = [m for m in process.mappings() if "r" in m.rights and not m.path.startswith("[v")]
    written = set()  # starts of mappings that the process has written to
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if re.match("[0-9a-f]+-", line):
                start = int(line.split("-")[0], 16)
            elif line.startswith("Anonymous:") and int(line.split()[1]) > 0:
                written.add(start)
    notes = bytearray()

    def note(kind, content):
        notes.extend(struct.pack("<III", 5, len(content), kind) + b"CORE\0\0\0\0" + content + bytes(-len(content) % 4))

    info = bytearray(136)
    struct.pack_into("<i", info, 24, pid)
    info[40 : 40 + len(process.name)] = process.name.encode()
    note(3, bytes(info))
    files = [m for m in mappings if m.inode]
    table = struct.pack("<QQ", len(files), 1) + b"".join(struct.pack("<QQQ", m.start, m.end, m.offset) for m in files)
    note(0x46494C45, table + b"".join(m.path.encode() + b"\0" for m in files))
    head = 64 + 56 * (len(mappings) + 1)
    at = head + len(notes)
    segments = [struct.pack("<IIQQQQQQ", 4, 0, head, 0, 0, len(notes), 0, 4)]
    with open(path, "wb") as core:
        for m in mappings:
            size = m.end - m.start
            # What is in a file and cannot be written is not kept, but for the first page.
            kept = size if not m.inode or m.start in written or not without_files else 4096 if m.offset == 0 else 0
            held = process.resident(m.start, min(size // 4096, 1 << 16)) if not m.inode else None
            core.seek(at)
            for page in range(0, kept, 4096):
                if held is not None and (page // 4096 >= len(held) or not held[page // 4096]):
                    continue
                raw = process.read_many([(m.start + page, 4096)])[0]
                if raw and any(raw):
                    core.seek(at + page)
                    core.write(raw)
            segments.append(struct.pack("<IIQQQQQQ", 1, 6, at, m.start, 0, kept, size, 4096))
            at += kept
        core.truncate(at)
        core.seek(0)
        ident = b"\x7fELF\2\1\1" + bytes(9)
        core.write(struct.pack("<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0))
        core.write(b"".join(segments) + notes)


class Cores(Case):
    def test_core_says_what_the_process_said(self):
        for flavour, without_files in (("hakmem_c23", False), ("hakmem_classic", True), (None, True)):
            with self.subTest(flavour), tempfile.TemporaryDirectory() as folder, Program(flavour) as program:
                core = os.path.join(folder, "core")
                write_core(program.pid, core, without_files)
                found = self.stat(core)
                self.assertEqual((found["pid"], found["program"]), (program.pid, "heap_program" if flavour else "heap_program_st"))
                self.assertEqual({name: found[name] for name in program.stats}, program.stats)
                self.assertEqual({b["size"]: b for b in found["bins"]}, program.bins)
                block, asked, _ = next(b for b in program.blocks if b[2] == "live")
                (answer,) = self.where(core, block)
                self.assertEqual(answer["block"]["start"], block)
                self.succeeds("map", core, "-o", os.path.join(folder, "map.png"))


    def test_a_core_that_is_cut_short_or_damaged_is_called_so(self):
        with tempfile.TemporaryDirectory() as folder, Program("hakmem_c23") as program:
            core, part = os.path.join(folder, "core"), os.path.join(folder, "part")
            write_core(program.pid, core, True)
            with open(core, "rb") as file:
                whole = file.read(1 << 20)
            size = os.path.getsize(core)
            for kept, status, pattern in ((50, 5, "not an ELF file"), (200, 5, "cut short"), (1 << 16, 1, f"cut short: {1 << 16} of {size} bytes")):
                with open(part, "wb") as file:
                    file.write(whole[:kept])
                for command in (("stat", part), ("map", part, "-o", folder + "/map.png"), ("where", part, "0x10")):
                    self.fails(status, f"^hakmem: .*{pattern}", *command)
            os.truncate(core, size - 4096)
            self.assertRegex(hakmem("stat", core)[2], "^(hakmem: .*the core file is cut short: .*\n)$")
            # The file notes' count of files, and with it where their names are.
            at = whole.index(b"CORE\0\0\0\0", whole.index(b"ELIF")) + 8
            with open(part, "wb") as file:
                file.write(whole[:at] + b"\xff\xff" + whole[at + 2 :])
            self.fails(5, "its notes are damaged", "stat", part)

    def test_a_core_without_the_library_names_it(self):
        with tempfile.TemporaryDirectory() as folder:
            core, copy = os.path.join(folder, "core"), os.path.join(folder, "libhakmem_copy.so")
            shutil.copy(library("hakmem_c23"), copy)
            with Program(copy) as program:
                write_core(program.pid, core, True)
            os.rename(copy, copy + ".gone")
            self.fails(1, "the file .*/libhakmem_copy.so is needed", "stat", core)


class Gdb(Case):
    """The commands say what the tool says, and gdb says nothing of the library."""

    def gdb(self, *commands, source=True):
        words = ["gdb", "--batch", "-nx", "-iex", "set debuginfod enabled off"]
        if source:
            words += ["-x", os.path.join(ROOT, "tools/hakmem/hakmem_gdb.py")]
        for command in commands:
            words += ["-ex", command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=dict(os.environ, HAK_TOOL=os.path.join(ROOT, "tools/hakmem")))
        return done.stdout, done.stderr

    @unittest.skipUnless(shutil.which("gdb"), "no gdb here")
    def test_in_gdb_as_outside(self):
        for flavour in ("hakmem_c23", "hakmem_classic"):
            with self.subTest(flavour), Program(flavour) as program:
                block, asked, _ = next(b for b in program.blocks if b[2] == "live" and b[1] > 20)
                expected = self.succeeds("where", program.pid, f"{block + 9:#x}")
                out, err = self.gdb(f"attach {program.pid}", f"hakmem where (char *){block:#x} + 9", "hakmem stats", "hakmem where", "detach")
                self.assertIn(expected, out, err)
                self.assertIn(f"{flavour} ", out)
                self.assertRegex(out, rf"(?m)^ +{program.bins[48]['size']} +{program.bins[48]['slabs']} +{program.bins[48]['live']} ")
                self.assertIn("hakmem: an address is wanted", err)

    @unittest.skipUnless(shutil.which("gdb"), "no gdb here")
    def test_the_library_brings_no_warning(self):
        with Program("hakmem_c23") as program:
            out, err = self.gdb(f"attach {program.pid}", "info sharedlibrary", "detach", source=False)
            self.assertIn("libhakmem_c23", out)
            self.assertNotIn("auto-load", out + err)


class Serve(Case):
    def ask(self, url, **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def test_page_and_numbers(self):
        with Program("hakmem_c23") as program:
            with subprocess.Popen([sys.executable, TOOL, "serve", str(program.pid), "--every", "0.05"], stdout=subprocess.PIPE, text=True) as server:
                try:
                    url = server.stdout.readline().strip()
                    self.assertRegex(url, r"^http://127\.0\.0\.1:\d+/[\w-]+/$")
                    status, page = self.ask(url)
                    self.assertEqual(status, 200)
                    self.assertNotIn("//", re.sub(r"(?m)//.*$", "", page).replace("</", ""))  # nothing from anywhere
                    stats = json.loads(self.ask(url + "stats")[1])
                    self.assertEqual({name: stats["latest"][name] for name in program.stats}, program.stats)
                    self.assertEqual(stats["history"][0][3], program.stats["tiny_cached"])
                    later = json.loads(self.ask(f"{url}stats?since={stats['history'][-1][0]}")[1])
                    self.assertFalse([row for row in later["history"] if row[0] <= stats["history"][-1][0]])
                    rows = json.loads(self.ask(url + "map")[1])["frame"]["rows"]
                    self.assertEqual(len(rows), len({row["a"] for row in rows}))
                    self.assertIn("hakmem_live_small_bytes", self.ask(url + "metrics")[1])
                    # Who does not know the path, or comes by another name, gets nothing.
                    root = url[: url.index("/", 8) + 1]
                    self.assertEqual(self.ask(root)[0], 404)
                    self.assertEqual(self.ask(root + "stats")[0], 404)
                    self.assertEqual(self.ask(url + "stats", Host="elsewhere.example")[0], 404)
                    self.assertEqual(self.ask(url + "none")[0], 404)
                finally:
                    server.kill()

    @unittest.skipUnless(shutil.which("chromium"), "no chromium")
    def test_a_browser_shows_it(self):
        """The page's own script says what it has drawn: looks at the numbers, and rows of the map."""
        with Program("hakmem_c23") as program, tempfile.TemporaryDirectory() as home:
            browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home}", "--virtual-time-budget=20000", "--dump-dom"]
            with subprocess.Popen([sys.executable, TOOL, "serve", str(program.pid)], stdout=subprocess.PIPE, text=True) as server:
                try:
                    url = server.stdout.readline().strip()
                    for _ in range(5):
                        page = subprocess.run(browser + [url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "HOME": home}, check=False).stdout
                        if 'data-rows="' in page:
                            break
                finally:
                    server.kill()
            self.assertRegex(page, r'<body data-(?=[^>]*looks="[1-9])(?=[^>]*rows="[1-9])')
            self.assertRegex(page, r'id="caption">RSS [\d.]+ MiB .*, live ')
            self.assertIn("16 B</span>", page)

    def test_no_such_process(self):
        self.fails(5, "no process", "serve", 4194303)


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def message(*fields):
    """A message of protobuf: (number, int, bytes or str)."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


class Profiles(Case):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def file(self, name, content):
        path = os.path.join(self.folder.name, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def proto(self):
        """main calls work, which calls two functions; the innermost frame comes first."""
        strings = ["", "inuse_objects", "count", "inuse_space", "bytes", "main", "work", "first", "second"]
        fields = [(1, message((1, 1), (2, 2))), (1, message((1, 3), (2, 4)))]
        fields += [(2, message((1, b"".join(map(varint, stack))), (2, b"".join(map(varint, values))))) for stack, values in (((3, 2, 1), (2, 3000)), ((4, 2, 1), (1, 1000)))]
        fields += [(4, message((1, i), (4, message((1, i), (2, 7))))) for i in range(1, 5)]
        fields += [(5, message((1, i), (2, 4 + i))) for i in range(1, 5)]
        fields += [(6, s) for s in strings]
        return message(*fields)

    def test_pprofs_format(self):
        for path in (self.file("plain.pb", self.proto()), self.file("zipped.pb.gz", gzip.compress(self.proto()))):
            self.assertEqual(self.succeeds("profile", path, "--folded"), "main;work;first 3000\nmain;work;second 1000\n")
            self.assertEqual(self.succeeds("profile", path, "--folded", "--value", "inuse_objects"), "main;work;first 2\nmain;work;second 1\n")
            out = self.succeeds("profile", path)
            self.assertRegex(out, r"2\.9 KiB +75\.0 % +2\.9 KiB +75\.0 % +first\n")
            self.assertRegex(out, r" 0 B +0\.0 % +3\.9 KiB +100\.0 % +main\n")
            self.fails(2, "no value time; it has inuse_objects, inuse_space", "profile", path, "--value", "time")

    def test_sums_of_samples_have_their_doubt(self):
        path = self.file("x.pb", self.proto() + message((12, 40)))
        out = self.succeeds("profile", path)
        self.assertIn("inuse_space: 3.9 KiB in 2 stacks, sampled every 40 B: ± 10 % at most\n", out)
        self.assertRegex(out, r"75\.0 % +± 12 % +2\.9 KiB .* first\n")
        self.assertNotIn("±", self.succeeds("profile", path, "--value", "inuse_objects"))
        self.assertNotIn("±", self.succeeds("profile", path, "--diff", path))
        exact = self.file("exact.pb", self.proto() + message((12, 1)))
        self.assertNotIn("±", self.succeeds("profile", exact))

    def test_names_are_found_in_the_files(self):
        # The first mapping of a program as the kernel lays it out, and an address in its main().
        with open(PRELOADED, "rb") as file:
            header = elf.Header(lambda offset, size: os.pread(file.fileno(), size, offset))
        symbols = subprocess.run(["nm", PRELOADED], capture_output=True, text=True, check=True).stdout
        main_at = int(re.search(r"([0-9a-f]+) T main", symbols).group(1), 16)
        code = next(s for s in header.of(elf.PT_LOAD) if s.address <= main_at < s.address + s.file_bytes)
        base = 0x5500_0000_0000
        start = base + (code.address & -4096)
        mapping = message((1, 1), (2, start), (3, start + 0x10000), (4, code.offset & -4096), (5, 3))
        raw = message((1, message((1, 1), (2, 2))), (2, message((1, b"\1"), (2, b"\5"))), (3, mapping), (4, message((1, 1), (2, 1), (3, base + main_at + 4))), (6, ""), (6, "inuse_space"), (6, "bytes"), (6, PRELOADED))
        self.assertEqual(self.succeeds("profile", self.file("x.pb", raw), "--folded"), "main 5\n")

    @unittest.skipUnless(shutil.which("go"), "no Go here")
    def test_go_tool_pprof_opens_those_of_four_languages(self):
        c, cxx = (os.path.join(self.folder.name, name) for name in ("c", "cxx"))
        with open(c + ".c", "w") as file:
            file.write("#include <stdlib.h>\n__attribute__((noipa)) static void *make_in_c(void) { void *p = malloc(1000); __asm__(\"\"); return p; }\nint main(void) { return make_in_c() == NULL; }\n")
        with open(cxx + ".cc", "w") as file:
            file.write("#include <string>\nnamespace shop { struct Order { std::string text; __attribute__((noipa)) void grow(int n) { text.assign(n, 'x'); __asm__(\"\"); } }; }\n")
            file.write("int main() { shop::Order order; order.grow(5000); return 0; }\n")
        subprocess.run(["gcc", "-O2", "-o", c, c + ".c"], check=True)
        subprocess.run(["g++", "-O2", "-o", cxx, cxx + ".cc"], check=True)
        programs = {"make_in_c": [c], "shop::Order::grow": [cxx], "PyList_|list_": ["/usr/bin/python3", "-c", "x = [i for i in range(100000)]"]}
        if shutil.which("node"):
            programs["node::"] = ["node", "-e", "Buffer.alloc(1 << 20)"]
        for name, program in programs.items():
            with self.subTest(name):
                path = os.path.join(self.folder.name, "profile.pb.gz")
                rate = "1" if len(program) == 1 else "16K"
                subprocess.run(program, check=True, env=dict(os.environ, LD_PRELOAD=library("hakmem_c23"), HAKMEM_PROFILE=path, HAKMEM_PROFILE_RATE=rate, PYTHONMALLOC="malloc"))
                home = dict(os.environ, HOME=self.folder.name, PPROF_TMPDIR=self.folder.name)
                done = subprocess.run(["go", "tool", "pprof", "-sample_index=alloc_space", "-top", "-nodefraction=0", path], capture_output=True, text=True, check=True, env=home)
                self.assertRegex(done.stdout, rf"(?m)^ .*B +[\d.]+% +({name})")

    def test_no_name_is_given_to_a_function_without_symbol(self):
        """Of a stripped program addr2line knows the nearest symbol before an address, which is another function's."""
        source, program, path = (os.path.join(self.folder.name, name) for name in ("a.c", "a", "a.pb.gz"))
        with open(source, "w") as file:
            file.write("#include <stdlib.h>\n#define KNOWN __attribute__((noipa))\nKNOWN void *exported(void) { void *p = malloc(100); __asm__(\"\"); return p; }\n")
            file.write("static KNOWN void *hidden(void) { void *p = malloc(1000); __asm__(\"\"); return p; }\nint main(void) { return exported() == hidden(); }\n")
        subprocess.run(["gcc", "-O1", "-rdynamic", "-s", "-o", program, source], check=True)
        subprocess.run([program], check=True, env=dict(os.environ, LD_PRELOAD=library("hakmem_c23"), HAKMEM_PROFILE=path, HAKMEM_PROFILE_RATE="1"))
        out = self.succeeds("profile", path, "--value", "alloc_space", "--folded")
        self.assertRegex(out, r"(?m);main;exported 100$")
        self.assertRegex(out, r"(?m);main;a\+0x[0-9a-f]+ 1000$")

    @unittest.skipUnless(shutil.which("c++filt"), "no binutils here")
    def test_names_are_as_in_the_source(self):
        one = self.file("one", b"main;_ZN4shop5Order3addEi;_Znwm 1000\nmain;_Zebra 1\n")
        self.assertEqual(self.succeeds("profile", one, "--folded"), "main;_Zebra 1\nmain;shop::Order::add(int);operator new(unsigned long) 1000\n")

    def test_sum_difference_and_flame_graph(self):
        one = self.file("one", b"main;a;b 1000\nmain;a;c 5\nmain;d 7\n")
        two = self.file("two", b"main;a;b 3000\nmain;d 7\n")
        self.assertEqual(self.succeeds("profile", one, two, "--folded"), "main;a;b 4000\nmain;a;c 5\nmain;d 14\n")
        self.assertEqual(self.succeeds("profile", two, "--diff", one, "--folded"), "main;a;b 2000\nmain;a;c -5\n")
        flame = os.path.join(self.folder.name, "flame.svg")
        self.succeeds("profile", one, "--flame", flame)
        titles = [e.text for e in xml.etree.ElementTree.parse(flame).iter("{http://www.w3.org/2000/svg}title")]
        self.assertEqual(sorted(titles)[:2], ["a: 1005 B, 99.3 %", "all: 1012 B, 100.0 %"])
        self.fails(2, "must end in .svg", "profile", one, "--flame", "x.png")

    def test_a_flame_graph_is_as_high_as_what_can_be_seen(self):
        deep = ";".join(f"f{i}" for i in range(120))
        heights = []
        for name, text in (("hair", f"main;a 100000\n{deep} 1\n"), ("plain", "main;a 100000\n")):
            svg = os.path.join(self.folder.name, name + ".svg")
            self.succeeds("profile", self.file(name, text.encode()), "--flame", svg)
            heights.append(xml.etree.ElementTree.parse(svg).getroot().get("height"))
        self.assertEqual(*heights)

    def test_what_is_no_profile(self):
        self.fails(5, "No such file", "profile", "/nowhere/profile")
        for content in (b"some text\n", b"\x1f\x8b\0\0", os.urandom(7) + b"\xff" * 4000, gzip.compress(b"\xff\xff"), self.proto()[:-3]):
            self.fails(1, "neither a profile", "profile", self.file("x", content))

    def test_a_damaged_profile_is_read_or_refused(self):
        """Each bit of a profile turned over, and each end cut off: it is another profile, or it is refused."""
        whole = self.proto() + message((3, message((1, 1), (2, 4096), (3, 8192), (5, 3))), (4, message((1, 9), (2, 1), (3, 5000))))
        refused = 0
        for at in range(len(whole)):
            for content in [whole[:at], *(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for bit in (0, 1, 2, 3, 7))]:
                try:
                    name, sums, period = cmd_profile.merge([self.file("x", content)], None)
                    list(cmd_profile.top(name, sums, 20, period))
                except Failure as failure:
                    self.assertIn("neither a profile", str(failure))
                    refused += 1
        self.assertGreater(refused, 300)


# Forks five children that end as it does.
FORKS = """
import os, sys
for _ in range(5):
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
print(os.getpid())
"""

# Prints what hak_stats_json() says, to a buffer that has room and to one that has not.
JSON = """
import ctypes
size = ctypes.CDLL(None).hak_stats_json
size.restype = ctypes.c_size_t
size.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
buffer = ctypes.create_string_buffer(100000)
length = size(buffer, 100000)
assert length == len(buffer.value)
short = ctypes.create_string_buffer(b"x" * 50, 50)
assert size(short, 20) > 1000 and short.raw[:20] == buffer.raw[:19] + bytes(1) and short.raw[20:] == b"x" * 30, short.raw
assert size(None, 0) > 1000
print(buffer.value.decode())
"""


class Statistics(Case):
    """What the library itself says, on its own."""

    def python(self, program, flavour="hakmem_c23", **settings):
        env = dict(os.environ, LD_PRELOAD=library(flavour), **settings)
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, done.stderr

    def test_table_has_a_header(self):
        for flavour in FLAVOURS:
            out, err = self.python("import os; print(os.getpid())", flavour, HAKMEM_STATS="1", HAKMEM_DECAY_MS="-1", HAKMEM_THP="0")
            lines = err.splitlines()
            self.assertRegex(lines[0], rf"^hakmem statistics of python3[\d.]* \(pid {out.strip()}\): {flavour} \d+\.\d+\.\d+, up \d+\.\d s$")
            self.assertEqual(lines[1].split(), ["settings", "HAKMEM_DECAY_MS=-1", "HAKMEM_THP=0"])
            rss, slabs = re.fullmatch(r"  peak: RSS / in slabs +(\d+\.\d) / (\d+\.\d) MiB", lines[2]).groups()
            self.assertGreater(float(rss), 5)
            self.assertGreater(float(slabs), 0.5)

    def test_forked_children_do_not_flood_the_terminal(self):
        for value in ("1", "text", "json"):
            out, err = self.python(FORKS, HAKMEM_STATS=value)
            self.assertEqual(err.count('"program"' if value == "json" else "hakmem statistics"), 1)
            self.assertRegex(err, rf"pid\D+{out.strip()}\D")

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            out, err = self.python(FORKS, HAKMEM_STATS=folder + "/%p.json")
            self.assertEqual(err, "")
            names = os.listdir(folder)
            self.assertEqual(len(names), 6)
            for name in names:
                with open(os.path.join(folder, name)) as file:
                    self.assertEqual(f"{json.load(file)['pid']}.json", name)
            out, err = self.python(FORKS, HAKMEM_STATS=folder + "/one%%p")
            self.assertEqual(err, "")
            with open(folder + "/one%p") as file:
                self.assertIn(f"(pid {out.strip()})", file.readline())
            self.assertEqual(self.python(FORKS, HAKMEM_STATS=folder + "/none/file")[1], "")

    def test_json_is_what_the_tool_says(self):
        for flavour in FLAVOURS:
            found = json.loads(self.python(JSON, flavour, HAKMEM_DECAY_MS="50")[0])
            self.assertEqual(found["flavour"], flavour)
            self.assertEqual(found["settings"], {"HAKMEM_DECAY_MS": 50})
            for state in ("live", "cached", "free"):
                self.assertEqual(found["tiny_" + state], sum(b["size"] * b[state] for b in found["bins"]))
            with Program(flavour) as program:
                outside = self.stat(program.pid)
            self.assertEqual(set(found) - set(outside), {"os_calls"})
            self.assertEqual([set(b) for b in found["bins"]], [set(b) for b in outside["bins"]])

    def test_peak_stays(self):
        out = self.python("x = bytearray(50 << 20); del x\n" + JSON)[0]
        found = json.loads(out)
        self.assertGreater(found["peak"], 50 << 20)
        self.assertLess(found["peak"], 70 << 20)
        self.assertLess(found["large_live"], 20 << 20)


class Errors(Case):
    def test_targets_that_are_none(self):
        self.fails(5, "no process 4194303", "stat", 4194303)
        self.fails(5, "no such file", "stat", "/nowhere/core")
        self.fails(5, "not an ELF file", "stat", os.path.join(ROOT, "tools/hakmem/hakmem"))
        self.fails(5, "not a core file", "stat", PRELOADED)
        self.fails(2, "usage", "stat")
        self.fails(2, "usage", "nothing")

    def test_process_that_is_not_served(self):
        with subprocess.Popen(["sleep", "60"]) as other:
            self.fails(3, rf"process {other.pid} \(.+\) is not served by hakmem", "stat", other.pid)
            other.kill()

    def test_process_that_has_ended(self):
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its parent has not taken its status yet
        for command in (("stat", child.pid), ("map", child.pid), ("where", child.pid, "0x10"), ("serve", child.pid)):
            self.fails(5, f"process {child.pid} has ended", *command)
        child.wait()

    def test_descriptor_of_another_version_is_refused(self):
        with Program("hakmem_c23") as program:
            process = memory.Process(program.pid)
            (where,) = (where for where, path in process.descriptors() if "hakmem" in path)
            with open(f"/proc/{program.pid}/mem", "r+b", buffering=0) as file:
                file.seek(where + 8)
                file.write(struct.pack("<I", layout.VERSION + 1))
            self.fails(1, f"of version {layout.VERSION + 1}, and this tool knows {layout.VERSION}", "stat", program.pid)

    def test_process_that_may_not_be_read(self):
        with Program("hakmem_c23") as program:
            # By another user, in a child that has loaded everything before.
            with contextlib.redirect_stdout(io.StringIO()):
                main.main(["stat", str(program.pid)])
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.dup2(writer, 2)
                try:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                except OSError:  # a sandbox that knows one user only
                    os._exit(99)
                os._exit(main.main(["stat", str(program.pid)]))
            os.close(writer)
            with open(reader) as file:
                text = file.read()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == 99:
                self.skipTest("no other user here")
            self.assertEqual(status, 4)
            self.assertRegex(text, "may not read process .*; run this as root")


class Run(Case):
    LIBRARY = ("--library", library("hakmem_c23"))

    def test_program_is_served_with_the_settings(self):
        out = self.succeeds("run", *self.LIBRARY, "--set", "DECAY_MS=7", "--", sys.executable, "-c", "import os; print(os.environ['HAKMEM_DECAY_MS'], os.environ['LD_PRELOAD'], open('/proc/self/maps').read())")
        self.assertTrue(out.startswith(f"7 {os.path.realpath(self.LIBRARY[1])}"), out)
        self.assertIn("libhakmem_c23.so", out.split(None, 2)[2])

    def test_it_is_the_program(self):
        status, out, err = hakmem("run", *self.LIBRARY, "sh", "-c", "echo $PPID; exit 17")
        self.assertEqual((status, out.strip(), err), (17, str(os.getpid()), ""))
        self.assertEqual(hakmem("run", *self.LIBRARY, "sh", "-c", "kill -9 $$")[0], -signal.SIGKILL)

    def test_leaks_are_all_found(self):
        with tempfile.TemporaryDirectory() as folder:
            source, program = folder + "/a.c", folder + "/a"
            with open(source, "w") as file:
                file.write("#include <stdlib.h>\n#include <string.h>\n__attribute__((noipa)) void lose(void) { void *volatile p = malloc(30); p = NULL; }\nint main(void) { for (int i = 0; i < 100; i++) lose(); return 0; }\n")
            subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
            status, out, err = hakmem("run", *self.LIBRARY, "--leaks", program)
            self.assertEqual(status, 0)
            self.assertRegex(err, r"(?m)^hakmem: leak of \d+ bytes in (9\d|100) blocks, allocated by\nhakmem:   #0 0x\w+ lose\+")  # the last may still be in a register
            err = hakmem("run", *self.LIBRARY, "--leaks", "--set", "PROFILE_RATE=1G", program)[2]
            self.assertRegex(err, "^hakmem: no leaks among sampled blocks ")

    def test_stats_option_takes_no_word(self):
        status, out, err = hakmem("run", *self.LIBRARY, "--stats", "true")
        self.assertEqual((status, out), (0, ""))
        self.assertIn("hakmem statistics", err)

    def test_files_are_written_where_the_tool_was_called(self):
        with tempfile.TemporaryDirectory(suffix="%n") as folder:
            self.assertEqual(hakmem("run", *self.LIBRARY, "--profile=p.gz", "--stats=s.json", "env", "-C", "/", "true", cwd=folder), (0, "", ""))
            self.assertEqual(sorted(os.listdir(folder)), ["p.gz", "s.json"])

    def test_what_cannot_be_served(self):
        with tempfile.TemporaryDirectory() as folder:
            own = os.path.join(folder, "own")
            source = os.path.join(folder, "own.c")
            with open(source, "w") as file:
                file.write("int main(void) { return 0; }")
            static = os.path.join(folder, "static")
            subprocess.run(["gcc", "-static", "-o", static, source], check=True)
            self.fails(125, "statically linked", "run", *self.LIBRARY, static)
            with open(source, "w") as file:
                file.write("#include <stddef.h>\nvoid *malloc(size_t n) { (void)n; return 0; } void free(void *p) { (void)p; }\n")
                file.write("void *calloc(size_t n, size_t m) { (void)n, (void)m; return 0; } void *realloc(void *p, size_t n) { (void)n; return p; }\n")
                file.write("int main(void) { return 0; }")
            subprocess.run(["gcc", "-fno-builtin", "-rdynamic", "-o", own, source], check=True)
            self.fails(125, "malloc of its own", "run", *self.LIBRARY, own)
            script = os.path.join(folder, "script")
            with open(script, "w") as file:
                file.write(f"#!{static}\n")
            os.chmod(script, 0o755)
            self.fails(125, "statically linked", "run", *self.LIBRARY, script)
            plain = os.path.join(folder, "plain")
            with open(plain, "w"):
                pass
            self.fails(126, "not a program that can be executed", "run", *self.LIBRARY, plain)
        self.fails(127, "no such program", "run", *self.LIBRARY, "/nowhere/program")
        self.fails(127, "--profile=/nowhere/file", "run", *self.LIBRARY, "--profile", "/nowhere/file", "true")
        self.fails(125, "no such library", "run", "--library", "/nowhere.so", "true")
        self.fails(125, "no program given", "run")

    def test_program_with_hakmem_in_it(self):
        status, out, err = hakmem("run", *self.LIBRARY, "--check", STATIC)
        self.assertEqual(status, 0, err)
        self.assertIn("has hakmem linked in", err)


class Tune(Case):
    def test_intervals_tell_what_differs_from_noise(self):
        chance = random.Random(3)
        base = [100 + chance.random() for _ in range(9)]
        low, high = cmd_tune.interval([0.8 * value for value in base], base, random.Random(1))
        self.assertTrue(0.78 < low <= 0.8 + 1e-9 and 0.8 - 1e-9 <= high < 0.82, (low, high))
        low, high = cmd_tune.interval([100 + chance.random() for _ in range(9)], base, random.Random(1))
        self.assertTrue(low < 1.01 and high > 0.99)
        even = (0.97, 1.03)
        self.assertIn("set nothing", cmd_tune.advice([("A=1", [even, even, even])])[0])
        said = cmd_tune.advice([("A=1", [(0.8, 0.9), even, (1.1, 1.2)]), ("B=2,C=3", [even, even, (0.4, 0.5)])])
        self.assertEqual(said[0], "for less time: HAKMEM_A=1 (at least 10 % less; CPU time -3 to +3 %, peak memory +10 to +20 %)")
        self.assertIn("for less peak memory: HAKMEM_B=2 HAKMEM_C=3 (at least 50 % less", said[1])

    def test_it_runs_the_program_under_each_setting(self):
        with tempfile.TemporaryDirectory() as folder:
            program = f"import os; open({folder + '/seen'!r}, 'a').write(os.environ.get('HAKMEM_DECAY_MS', 'none') + os.environ.get('HAKMEM_THP', '') + ' ')"
            out = self.succeeds("tune", *Run.LIBRARY, "--rounds", 3, "--try", "DECAY_MS=0", "--try", "DECAY_MS=7,THP=0", sys.executable, "-c", program)
            with open(folder + "/seen") as file:
                seen = file.read().split()
        self.assertEqual(sorted(seen), sorted(["none"] * 4 + ["0"] * 3 + ["70"] * 3))
        self.assertRegex(out, r"(?m)^DECAY_MS=7,THP=0 +[-+]\d+\.\d \.\. ")
        self.fails(1, "has ended with 3", "tune", *Run.LIBRARY, "sh", "-c", "exit 3")
        self.fails(127, "no such program", "tune", *Run.LIBRARY, "/nowhere/program")
        self.fails(2, "NAME=VALUE is wanted", "tune", *Run.LIBRARY, "--try", "THP", "true")


class Record(Case):
    """What is recorded and replayed is held to the truth by tools/replay's tests; this is about the commands."""

    REPLAYER = ("--replayer", os.path.join(ROOT, "tools/replay/hakmem-replay"))
    PROGRAM = "import ctypes, os; malloc = ctypes.CDLL(None).malloc; [malloc(7777) for _ in range(50)]; child = os.fork(); os.waitpid(child, 0) if child else malloc(7777); os._exit(5)"

    def record(self, folder, *options):
        """(status, stderr) of a recording of PROGRAM in a folder."""
        status, out, err = hakmem("record", *Run.LIBRARY, *self.REPLAYER, *options, sys.executable, "-c", self.PROGRAM, cwd=folder)
        self.assertEqual(out, "")
        return status, err

    def test_traces_are_named_and_the_status_is_the_programs(self):
        for options, names in (((), [r"hakmem\.\d+\.trace"] * 2), (("-o", "a.b.trace"), [r"a\.\d+\.b\.trace", r"a\.b\.trace"])):
            with self.subTest(options), tempfile.TemporaryDirectory() as folder:
                for other in ("hakmem.x.trace", "a.5.b.trace"):  # another's, and one of an earlier time
                    with open(os.path.join(folder, other), "w"):
                        pass
                status, err = self.record(folder, *options)
                self.assertEqual(status, 5)
                made = sorted(set(os.listdir(folder)) - {"hakmem.x.trace", "a.5.b.trace"})
                self.assertEqual(len(made), 2)
                for name, pattern in zip(made, names):
                    self.assertRegex(name, f"^{pattern}$")
                    self.assertRegex(err, rf"(?m)^hakmem: {re.escape(name)}: .*python.*, \d+ calls of 1 thread in \d+\.\d s, at most \S+ \w+ live$")
                self.assertEqual(err.count("\n"), 2, err)

    def test_replay_compares_mallocs_and_settings(self):
        with tempfile.TemporaryDirectory() as folder:
            self.record(folder, "-o", "a.trace")
            trace = os.path.join(folder, "a.trace")
            about = json.loads(self.succeeds("replay", *self.REPLAYER, "--info", "--json", trace))
            self.assertGreater(about["malloc"], 50)
            self.assertIn(f"{about['malloc']} malloc, ", self.succeeds("replay", *self.REPLAYER, "--info", trace))
            tried = f"glibc,hakmem:DECAY_MS=0,{library('hakmem_classic')}"
            found = json.loads(self.succeeds("replay", *self.REPLAYER, *Run.LIBRARY, "--rounds", 3, "--json", "--allocators", tried, trace))
            self.assertEqual(list(found["runs"]), tried.split(","))
            for runs in found["runs"].values():
                self.assertEqual(len(runs), 3)
                self.assertTrue(all(run["seconds"] > 0 and run["refused"] == 0 for run in runs))
            table = self.succeeds("replay", *self.REPLAYER, *Run.LIBRARY, "--rounds", 3, "--allocators", tried, trace)
            self.assertRegex(table, r"(?m)^malloc +time +CPU +peak RSS +RSS at the end +page faults$")
            self.assertRegex(table, r"(?m)^glibc +\d+\.\d+ s +\d+\.\d+ s +\d")
            self.assertRegex(table, r"(?m)^hakmem:DECAY_MS=0 +\d+\.\d+ s \(\d+\.\d\d \.\. ")

    def test_settings_reach_the_malloc_that_they_are_for(self):
        from hakmemlib import cmd_replay

        found = dict(cmd_replay.choices(r"glibc:GLIBC_TUNABLES=a=1,hakmem:DECAY_MS=0:HAKMEM_THP=1,/bin/true:CONF=a:1\,b:2", Run.LIBRARY[1]))
        glibc, served, other = found.values()
        self.assertEqual((glibc["GLIBC_TUNABLES"], "LD_PRELOAD" in glibc), ("a=1", False))
        self.assertEqual((served["HAKMEM_DECAY_MS"], served["HAKMEM_THP"]), ("0", "1"))
        self.assertIn("libhakmem_c23.so", served["LD_PRELOAD"])
        self.assertEqual(other["CONF"], "a:1,b:2")

    def test_what_is_wrong_is_said(self):
        self.fails(127, "no such program", "record", *Run.LIBRARY, *self.REPLAYER, "/nowhere/program")
        self.fails(125, "no program given", "record", *Run.LIBRARY)
        self.fails(125, "no such program: /nowhere", "record", *Run.LIBRARY, "--replayer", "/nowhere", "true")
        self.fails(125, "statically linked|nothing can be preloaded|no trace", "record", *Run.LIBRARY, *self.REPLAYER, "-o", "/nowhere/a.trace", "true")
        self.fails(1, "/nowhere.trace: it cannot be opened", "replay", *self.REPLAYER, "/nowhere.trace")
        self.fails(1, "not a trace", "replay", *self.REPLAYER, TOOL)
        self.fails(1, "no such program: /nowhere", "replay", "--replayer", "/nowhere", TOOL)
        with tempfile.TemporaryDirectory() as folder:
            self.record(folder, "-o", "a.trace")
            trace = os.path.join(folder, "a.trace")
            self.fails(2, "3 at least", "replay", *self.REPLAYER, "--rounds", 2, trace)
            self.fails(2, "neither a shared object nor one of", "replay", *self.REPLAYER, "--allocators", "nothing", trace)
            self.fails(2, "different ones are wanted", "replay", *self.REPLAYER, "--allocators", "glibc,glibc", trace)
            self.fails(2, "cannot be preloaded", "replay", *self.REPLAYER, "--allocators", TOOL, trace)


class Files(Case):
    def test_each_command_has_its_help_and_its_part_of_the_manual(self):
        with open(os.path.join(ROOT, "tools/hakmem/hakmem.1")) as file:
            manual = file.read().replace("\\-", "-")
        for command in main.COMMANDS:
            with self.subTest(command):
                out = self.succeeds(command, "--help")
                for option in set(re.findall(r"--[a-z]+", out)) - {"--help"}:
                    self.assertIn(option, manual)
                self.assertIn(f"hakmem {command}", manual)

    def test_the_manual_is_well_formed(self):
        done = subprocess.run(["sh", "-c", "command -v man >/dev/null && man --warnings -E UTF-8 -l -Tutf8 -Z tools/hakmem/hakmem.1 >/dev/null"], capture_output=True, text=True, cwd=ROOT)
        self.assertEqual(done.stderr, "")


if __name__ == "__main__":
    unittest.main(verbosity=2)
