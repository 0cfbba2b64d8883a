#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the documents say of the tree is so: each relative link leads to a file (and to a heading, if it names one),
README's prose has at most 100 columns, the version is one, each setting has a row with its default, and README's chart
is the one that benchmarks/overview.py makes of the results."""
import os
import re
import subprocess
import sys

LINK = re.compile(r"\]\(([^)\s]+)\)")
COLUMNS = 100

# The test runs among links to the files of the workspace.
root = os.path.dirname(os.path.realpath("README.md"))
faults = []


def documents():
    """README and its kin, and all of docs/."""
    names = [name for name in os.listdir(root) if name.endswith(".md")]
    names += ["docs/" + name for name in os.listdir(root + "/docs") if name.endswith(".md")]
    return sorted(names + ["boxes/README.md", "fronts/README.md", "benchmarks/README.md"])


def prose_of(path):
    """The lines of a document without its blocks of code, which are indented or fenced."""
    fenced = False
    with open(path, encoding="utf-8") as document:
        for line in document.read().split("\n"):
            if line.startswith("```"):
                fenced = not fenced
            elif not fenced and not line.startswith("    "):
                yield line


def anchors_of(path):
    """The anchors that a browser of the repository gives the headings."""
    for line in prose_of(path):
        if line.startswith("#"):
            title = line.lstrip("#").strip().lower()
            yield re.sub(r"[^\w\- ]", "", title).replace(" ", "-")


def check_link(name, link):
    if re.match(r"[a-z]+:", link):
        return
    target, _, anchor = link.partition("#")
    path = os.path.normpath(os.path.join(root, os.path.dirname(name), target)) if target else f"{root}/{name}"
    if not os.path.exists(path):
        faults.append(f"{name}: no file {link}")
    elif anchor and anchor not in anchors_of(path):
        faults.append(f"{name}: no heading {link}")


def check_boxes(folder):
    """Each box of a folder has a link in the README of the boxes or of the fronts."""
    readmes = "".join(open(f"{root}/{name}/README.md", encoding="utf-8").read() for name in ("boxes", "fronts"))
    for name in sorted(os.listdir(f"{root}/{folder}")):
        if os.path.isdir(f"{root}/{folder}/{name}") and f"{name}/" not in readmes:
            faults.append(f"{folder}/{name}: no README links to it")


check_boxes("boxes")
check_boxes("fronts")

links = 0
for name in documents():
    for number, line in enumerate(prose_of(f"{root}/{name}"), 1):
        for link in LINK.findall(line):
            check_link(name, link)
            links += 1
        if name == "README.md" and len(line) > COLUMNS and not line.startswith("|"):
            faults.append(f"{name}: more than {COLUMNS} columns: {line}")
if links < 100:
    faults.append(f"only {links} links")


def said(path, pattern):
    with open(f"{root}/{path}", encoding="utf-8") as file:
        return re.search(pattern, file.read(), re.M)[1]


# One version, in three files that cannot ask each other.
version = said("include/hakmem/hakmem.h", r'#define HAKMEM_VERSION +"(.*)"')
for path, pattern in (("MODULE.bazel", r'^    version = "(.*)"'), ("CHANGELOG.md", r"^## (\S+)")):
    if said(path, pattern) != version:
        faults.append(f"{path}: {said(path, pattern)}, but hakmem.h says {version}")


def number(text):
    """512K, 512 << 10 and 524288 are the same; None for what is no number."""
    value = re.match(r"(-?\d+)(?: << (\d+)|([KMG]))?", text)
    if value is None:
        return None
    return int(value[1]) << int(value[2] or {"K": 10, "M": 20, "G": 30}.get(value[3], 0))


# Each setting has a row in a table of the documents, with its default: in a column of its own, or behind the range.
rows = {}
for row in re.finditer(r"^\| `(HAKMEM_\w+)` \|[^|]*; ([^|;]*) \|", said("docs/hardened.md", r"([^\0]*)"), re.M):
    rows[row[1]] = row[2]
for row in re.finditer(r"^\| `(HAKMEM_\w+)` \|[^|]*\| ([^|]*) \|", said("docs/settings.md", r"([^\0]*)"), re.M):
    rows[row[1]] = row[2]
settings = re.findall(r'ROW\(\w+, "(\w+)", [^,]*, [^,]*, [^,]*, ([^,]*),', said("boxes/settings/settings.c", r"([^\0]*)"))
if len(settings) < 20:
    faults.append(f"boxes/settings/settings.c: only {len(settings)} settings")
for name, preset in settings:
    if name not in rows:
        faults.append(f"docs: no row for {name}")
    elif number(rows[name]) != number(preset):
        faults.append(f"docs: the default of {name} is {preset}, and not {rows[name]}")

chart = subprocess.run(
    [sys.executable, f"{root}/benchmarks/overview.py", f"{root}/benchmarks/results/2026-11-26/compare.md"],
    check=True,
    capture_output=True,
    text=True,
).stdout
with open(f"{root}/docs/compare.svg", encoding="utf-8") as kept:
    if kept.read() != chart:
        faults.append("docs/compare.svg: benchmarks/overview.py benchmarks/results/2026-11-26/compare.md says otherwise")

print("\n".join(faults) or f"{links} links lead somewhere")
sys.exit(len(faults) != 0)
