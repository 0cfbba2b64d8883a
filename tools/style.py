#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""style.py CHECK...: what tools/lint asks of the sources that no other tool looks at. Prints a line for each fault, and
ends with 1 if there is one.

    names    each function that a comment or a document names, as `name()`, is in the code
    links    each relative link in a document leads to a file
    sizes    no function of the product has more than 50 lines, no file more than 500
    includes each file of the product includes the headers of the boxes that it calls, and of no other box
    spdx     each source has an SPDX line of its own among its first three
"""

import os
import re
import subprocess
import sys

FUNCTION_LINES, FILE_LINES = 50, 500

# Functions of the system that comments name to say that nothing here calls them.
NOT_CALLED = {"openat", "process_madvise", "sbrk"}

BASE = ("boxes/base/", "boxes/cpu/")  # headers that come with all others

INPUTS = ("benchmarks/programs/", "tools/preload/programs/")  # of programs that tests and benchmarks run


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if path and os.path.isfile(path) and not os.path.islink(path)]


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError:
        return ""


def is_c(path):
    return path.endswith((".c", ".h", ".cc"))


def is_product(path):
    """True for C that is linked into a flavour: no test, no program of a test, no model."""
    return (
        path.startswith(("boxes/", "backends/", "fronts/"))
        and path.endswith((".c", ".h"))
        and not path.startswith("fronts/reports/")
        and not re.search(r"_(program|model|fixture)\.[ch]$", path)
        and os.path.basename(path) not in ("hit_path_calls.c", "kill_and_fork.c", "interposed.c")
    )


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def check_names(paths):
    texts = {path: read(path) for path in paths}
    known = set(NOT_CALLED)
    for path, text in texts.items():
        if not path.endswith(".md"):
            code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S) if is_c(path) else text
            known.update(re.findall(r"[A-Za-z_]\w*", code))
    for path, text in texts.items():
        if is_c(path):
            for comment in re.finditer(r"//[^\n]*", text):
                for name in re.findall(r"(?<![\w:.])([A-Za-z_]\w*)\(\)", comment.group()):
                    if name not in known:
                        yield f"{path}:{line_of(text, comment.start())}: no {name}() in the code"
        elif path.endswith(".md") and not path.startswith("benchmarks/results/"):
            for name in re.finditer(r"`(?:::)?([A-Za-z_]\w*)\(\)`", text):
                if name.group(1) not in known:
                    yield f"{path}:{line_of(text, name.start())}: no {name.group(1)}() in the code"


def check_links(paths):
    for path in paths:
        if path.endswith(".md"):
            text = read(path)
            for link in re.finditer(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", text):
                target = link.group(1)
                if "://" not in target and not os.path.exists(os.path.join(os.path.dirname(path), target)):
                    yield f"{path}:{line_of(text, link.start())}: nothing at {target}"


def functions(lines):
    """The first and the last line (from 1) of each function, as clang-format lays C out."""
    start = None
    for number, line in enumerate(lines, 1):
        if re.match(r"[A-Za-z_].*\{$", line) and "(" in line and "=" not in line.split("(")[0]:
            start = number
        elif start is None and re.match(r"\s.*\) ?\{$", line):  # parameters on several lines
            first = number - 1
            while first > 0 and lines[first - 1][:1].isspace():
                first -= 1
            start = first
        elif line.startswith("}") and start is not None:
            yield start, number
            start = None


def check_sizes(paths):
    for path in filter(is_product, paths):
        lines = read(path).splitlines()
        if len(lines) > FILE_LINES:
            yield f"{path}: {len(lines)} lines, more than {FILE_LINES}"
        for first, last in functions(lines):
            if last - first + 1 > FUNCTION_LINES:
                yield f"{path}:{first}: a function of {last - first + 1} lines, more than {FUNCTION_LINES}"


def check_spdx(paths):
    for path in paths:
        if path.startswith(INPUTS) or "_corpus/" in path:
            continue
        head = read(path).splitlines()[:3]
        is_source = is_c(path) or path.endswith((".py", ".bzl", ".bazel", ".BUILD")) or (head and head[0].startswith("#!"))
        if is_source and not any(re.search(r"SPDX-License-Identifier: \S+( \*/)?$", line) for line in head):
            yield f"{path}: no SPDX line of its own"


def without_comments(text):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S))


def declared(code):
    """The names that a header may declare: more than it does, so that nobody is told to leave it out by mistake."""
    return set(
        re.findall(r"\b(\w+)\(", code)
        + re.findall(r"#\s*define (\w+)", code)
        + re.findall(r"\b(?:struct|enum|union) (\w+) \{", code)
        + re.findall(r"\b([A-Z][A-Z0-9_]+)\b", code)
        + re.findall(r"\b(\w+)(?:\[\w*\])?(?: __attribute__\(\(.*?\)\))?;", code)
    ) - {"NULL", "SIZE_MAX", "defined", "for", "if", "return", "sizeof", "static_assert", "while"}


def check_includes(paths):
    """Calls are told by the prefix that is their box's name. What a file's own box includes counts for the file."""
    texts = {path: read(path) for path in paths if path.endswith((".c", ".h"))}
    includes = {path: set(re.findall(r'#\s*include "([^"]+\.h)"', text)) for path, text in texts.items()}
    code = {path: re.sub(r"^\s*#\s*include.*$", "", without_comments(text), flags=re.M) for path, text in texts.items()}
    doors = {
        header: name
        for header, folder, name in ((h, os.path.basename(os.path.dirname(h)), os.path.basename(h)[:-2]) for h in texts)
        if header.endswith(".h")
        and is_product(header)
        and not header.startswith((*BASE, "fronts/libc/"))
        and name in (folder, "os", "front_gate")
    }
    for path in filter(is_product, texts):
        box, had = os.path.dirname(path), set(includes[path])
        for header in includes[path]:
            if os.path.dirname(header) == box:
                had |= includes.get(header, set())
        calls = set(re.findall(r"\b([a-z_]\w+)\(", code[path]))
        for header, name in doors.items():
            if header not in had and os.path.dirname(header) != box:
                for call in sorted(calls):
                    if call.startswith(name + "_") and re.search(rf"\b{call}\(", code[header]):
                        yield f"{path}: calls {call}() without {header}"
                        break
        words = set(re.findall(r"\w+", code[path]))
        for header in includes[path] & texts.keys():
            names = set(declared(code[header]))
            for inner in includes[header]:  # hak_stats() comes with the box that has it
                names |= declared(code[inner]) if inner.startswith("include/") else set()
            names = {n for n in names if not n.startswith("HAK_")}
            if os.path.dirname(header) == box or path.endswith("_internal.h") or header.startswith(BASE):
                continue
            if not names & words:
                yield f"{path}: uses nothing of {header}"


CHECKS = {
    "names": check_names,
    "links": check_links,
    "sizes": check_sizes,
    "includes": check_includes,
    "spdx": check_spdx,
}


def main(names):
    if not names or any(name not in CHECKS for name in names):
        print(__doc__, file=sys.stderr)
        return 2
    paths = tracked()
    faults = [fault for name in names for fault in CHECKS[name](paths)]
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
