# SPDX-License-Identifier: Apache-2.0
"""What is installed, and the Debian packages of it: one list of files for both.

Sources are files of the workspace, known by their paths in it; those that are built, by their paths in bazel-bin.
Nothing depends on the machine, the time, or who builds: two builds of the same sources are equal, byte by byte.
"""
import calendar
import collections
import gzip
import hashlib
import io
import lzma
import os
import re
import subprocess
import tarfile
import tempfile
import time

# Where a file goes, below the prefix; what is in it, or the target of a symbolic link; which package has it.
Entry = collections.namedtuple("Entry", "path mode content link package")

RUNTIME, DEVELOPMENT, TOOLS = "libhakmem1", "libhakmem-dev", "hakmem-tools"
TEMPLATES = "tools/package/"
MULTIARCH = "x86_64-linux-gnu"
MAINTAINER = "hakmem maintainers <hakmem@packages.debian.org>"

ABOUT = {
    RUNTIME: (
        "general-purpose memory allocator (shared libraries)",
        [
            "A malloc for C and C++ programs, to be linked or preloaded: fast, with as",
            "little memory as the C library's, and a clear end for programs that misuse",
            "pointers.",
            ".",
            "This package has the shared libraries, one for each flavour, and such that",
            "stand in for those of other allocators.",
        ],
    ),
    DEVELOPMENT: (
        "general-purpose memory allocator (development files)",
        [
            "A malloc for C and C++ programs, to be linked or preloaded.",
            ".",
            "This package has the header, the static libraries, and what pkg-config and",
            "CMake need to find them.",
        ],
    ),
    TOOLS: (
        "general-purpose memory allocator (tools)",
        [
            "A malloc for C and C++ programs, to be linked or preloaded.",
            ".",
            "This package has the command that runs programs on it and shows what their",
            "heaps hold.",
        ],
    ),
}


class Sources:
    """The files of the workspace, and what they say of the release."""

    def __init__(self, paths):
        self._paths = {re.sub(r"^(\./)?(bazel-out/[^/]+/bin/)?", "", path): path for path in paths}
        header = self.text("include/hakmem/hakmem.h")
        self.version = re.search(r'#define HAKMEM_VERSION +"(.*)"', header)[1]
        self.major = self.version.split(".")[0]
        self.flavours = sorted(
            match[1] for match in map(re.compile(r"lib(hakmem_\w+)\.so$").match, self._paths) if match
        )
        self.first = "hakmem_c23"
        # The newest entry of the changelog: "## VERSION (YYYY-MM-DD)", and its text.
        newest = re.search(r"^## (\S+) \((.*?)\)\n(.*?)(?=^## |\Z)", self.text("CHANGELOG.md"), re.M | re.S)
        if newest[1] != self.version:
            raise SystemExit(f"CHANGELOG.md is of {newest[1]}, hakmem.h of {self.version}")
        self.date, self.changes = newest[2], newest[3]
        self.time = calendar.timegm(time.strptime(self.date, "%Y-%m-%d"))

    def bytes(self, path):
        with open(self._paths[path], "rb") as file:
            return file.read()

    def text(self, path):
        return self.bytes(path).decode()

    def below(self, folder):
        return sorted(path for path in self._paths if path.startswith(folder))


def fill(template, values):
    """The template with each @NAME@ replaced; a name without a value is an error."""
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], template).encode()


def table_of(markdown, heading):
    """The rows of the first table below a heading, as lists of cells, without the table's head."""
    table = re.search(r"(?:^\|.*\n)+", markdown.split(heading, 1)[1], re.M)[0]
    return [line[2:-2].split(" | ") for line in table.splitlines()][2:]


def roff(markdown):
    """A cell's text for a manual page."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def settings(sources):
    """The settings' table of the documents, for a manual page."""
    lines = []
    for name, unit, preset, what in table_of(sources.text("docs/settings.md"), "# Settings"):
        lines += [".TP", roff(name), f"({roff(unit)}; default {roff(preset)})", roff(what[0].upper() + what[1:]) + "."]
    return "\n".join(lines)


def flavour_list(sources):
    lines = []
    for name, what in table_of(sources.text("docs/flavours.md"), "## The flavours"):
        if name.strip("`") in sources.flavours:
            lines += [".TP", f"\\fBlib{name.strip('`')}.so.{sources.major}\\fR", roff(what[0].upper() + what[1:]) + "."]
    return "\n".join(lines)


def tree(sources, prefix, lib):
    """All entries of an installation below `prefix`, with the libraries in `lib` below it."""
    values = {
        "PREFIX": prefix,
        "INCLUDEDIR": prefix.rstrip("/") + "/include",
        "LIBDIR": f"{prefix.rstrip('/')}/{lib}",
        "INCLUDE_FROM_LIB": os.path.relpath("/include", "/" + lib),
        "VERSION": sources.version,
        "MAJOR": sources.major,
        "DATE": sources.date,
        "FIRST": sources.first,
        "FLAVOURS": " ".join(sources.flavours),
        "FLAVOUR_LIST": flavour_list(sources),
        "SETTINGS": settings(sources),
    }
    entries = []

    def add(path, content, package, mode=0o644):
        entries.append(Entry(path, mode, content, None, package))

    def link(path, target, package):
        entries.append(Entry(path, 0o777, None, target, package))

    def template(name, **more):
        return fill(sources.text(TEMPLATES + name), {**values, **more})

    for flavour in sources.flavours:
        shared = f"lib{flavour}.so"
        add(f"{lib}/{shared}.{sources.major}", sources.bytes(shared), RUNTIME)
        link(f"{lib}/{shared}", f"{shared}.{sources.major}", DEVELOPMENT)
        add(f"{lib}/lib{flavour}.a", sources.bytes(f"lib{flavour}.a"), DEVELOPMENT)
        name = "hakmem" if flavour == sources.first else flavour
        add(f"{lib}/pkgconfig/{name}.pc", template("hakmem.pc.in", NAME=name, FLAVOUR=flavour), DEVELOPMENT)
    for path in sources.below("compat/"):
        add(f"{lib}/hakmem/{path}", sources.bytes(path), RUNTIME)
    add("include/hakmem/hakmem.h", sources.bytes("include/hakmem/hakmem.h"), DEVELOPMENT)
    for name in ("hakmem-config.cmake", "hakmem-config-version.cmake"):
        add(f"{lib}/cmake/hakmem/{name}", template(name + ".in"), DEVELOPMENT)
    add("share/man/man7/hakmem.7", template("hakmem.7.in"), RUNTIME)
    add("share/man/man3/hak_stats.3", template("hak_stats.3.in"), DEVELOPMENT)
    for name in ("hak_version", "hak_flavour", "free_sized", "free_aligned_sized"):
        add(f"share/man/man3/{name}.3", b".so man3/hak_stats.3\n", DEVELOPMENT)
    for path in sources.below("tools/hakmem/"):
        name = path[len("tools/hakmem/") :]
        if name == "hakmem":
            add("bin/hakmem", sources.bytes(path), TOOLS, 0o755)
        elif name == "hakmem_gdb.py":
            # gdb reads what is named as the library in a folder of its own, which it trusts.
            for flavour in sources.flavours:
                library = f"{prefix.strip('/')}/{lib}/lib{flavour}.so.{sources.major}"
                add(f"share/gdb/auto-load/{library}-gdb.py", sources.bytes(path), TOOLS)
            add(f"share/hakmem/{name}", sources.bytes(path), TOOLS)
        elif name.endswith(".1"):
            add(f"share/man/man1/{name}", sources.bytes(path), TOOLS)
        else:
            add(f"share/hakmem/{name}", sources.bytes(path), TOOLS)
    add("bin/hakmem-replay", sources.bytes("tools/replay/hakmem-replay"), TOOLS, 0o755)
    add("share/man/man1/hakmem-replay.1", b".so man1/hakmem.1\n", TOOLS)
    for name in ("CHANGELOG.md", "LICENSE", "README.md"):
        add(f"share/doc/hakmem/{name}", sources.bytes(name), None)
    return sorted(entries)


# --- Debian packages


def is_elf(entry):
    return (entry.content or b"").startswith(b"\x7fELF")


def stripped(name, content):
    """A program or a shared library without symbols that only a debugger needs, an archive without what nothing needs."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(content)
        option = "--strip-debug" if name.endswith(".a") else "--strip-unneeded"
        subprocess.run(
            ["strip", option, "--enable-deterministic-archives", "--remove-section=.comment", path], check=True
        )
        with open(path, "rb") as file:
            return file.read()


def needed_libc(contents):
    """The newest version of glibc's symbols that the libraries ask for: "2.35"."""
    found = {b"2.2.5"}
    for content in contents:
        found.update(re.findall(rb"\0GLIBC_([0-9.]+)(?=\0)", content))
    return max(found, key=lambda version: [int(part) for part in version.split(b".")]).decode()


def compressed(content):
    """As `gzip -9n`."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as file:
        file.write(content)
    return out.getvalue()


def tarball(entries, when):
    """A .tar.xz of entries, with the folders that they lie in, all of root's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = set()

        def member(path, mode, kind):
            info = tarfile.TarInfo("./" + path)
            info.mode, info.type, info.mtime, info.uname, info.gname = mode, kind, when, "root", "root"
            return info

        root = member("", 0o755, tarfile.DIRTYPE)
        root.name = "./"
        tar.addfile(root)
        for entry in entries:
            parts = entry.path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    tar.addfile(member(folder + "/", 0o755, tarfile.DIRTYPE))
            if entry.link:
                info = member(entry.path, 0o777, tarfile.SYMTYPE)
                info.linkname = entry.link
                tar.addfile(info)
            else:
                info = member(entry.path, entry.mode, tarfile.REGTYPE)
                info.size = len(entry.content)
                tar.addfile(info, io.BytesIO(entry.content))
    return lzma.compress(out.getvalue(), preset=6)


def archive(members, when):
    """An ar archive of (name, content)."""
    out = [b"!<arch>\n"]
    for name, content in members:
        out.append(b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), when, 0, 0, b"100644", len(content)))
        out.append(content + b"\n" * (len(content) % 2))
    return b"".join(out)


def copyright_file():
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: hakmem\n"
        "Comment: built from the sources by tools/package.\n\n"
        "Files: *\nCopyright: 2026 the hakmem authors\nLicense: Apache-2.0\n\n"
        "License: Apache-2.0\n"
        " On Debian systems the full text of the Apache License, version 2.0, is in\n"
        " /usr/share/common-licenses/Apache-2.0.\n"
    ).encode()


def changelog(sources):
    date = time.strftime("%a, %d %b %Y 00:00:00 +0000", time.gmtime(sources.time))
    lines = [f"hakmem ({sources.version}) unstable; urgency=medium", ""]
    for item in re.findall(r"^- (.*?)(?=^- |\Z)", sources.changes, re.M | re.S):
        words, line = item.replace("`", "").split(), "  *"
        for word in words:
            if len(line) + 1 + len(word) > 78:
                lines.append(line)
                line = "   "
            line += " " + word
        lines.append(line)
    lines += ["", f" -- {MAINTAINER}  {date}", ""]
    return "\n".join(lines).encode()


def debian_package(sources, package, entries):
    """The bytes of a .deb."""
    usr = []
    for entry in entries:
        content = entry.content
        if is_elf(entry) or (content and entry.path.endswith(".a")):
            content = stripped(os.path.basename(entry.path), content)
        if entry.path.startswith("share/man/"):
            entry, content = entry._replace(path=entry.path + ".gz"), compressed(content)
        usr.append(entry._replace(path="usr/" + entry.path, content=content))
    document = f"usr/share/doc/{package}/"
    usr.append(Entry(document + "changelog.gz", 0o644, compressed(changelog(sources)), None, package))
    usr.append(Entry(document + "copyright", 0o644, copyright_file(), None, package))
    if package == RUNTIME:
        # One package for all flavours, which are builds of one library.
        override = f"{package}: package-name-doesnt-match-sonames *\n"
        usr.append(Entry(f"usr/share/lintian/overrides/{package}", 0o644, override.encode(), None, package))
    usr.sort()

    binaries = [entry for entry in usr if is_elf(entry)]
    needed = f"libc6 (>= {needed_libc(entry.content for entry in binaries)})"
    depends = {
        RUNTIME: needed,
        DEVELOPMENT: f"{RUNTIME} (= {sources.version}), libc6-dev",
        TOOLS: f"{needed}, python3:any, {RUNTIME} (>= {sources.version})",
    }[package]
    kibibytes = sum(-(-len(entry.content or b"") // 1024) for entry in usr)
    title, lines = ABOUT[package]
    fields = [
        ("Package", package),
        ("Source", "hakmem"),
        ("Version", sources.version),
        ("Architecture", "amd64"),
        ("Multi-Arch", "foreign" if package == TOOLS else "same"),
        ("Maintainer", MAINTAINER),
        ("Installed-Size", str(kibibytes)),
        ("Depends", depends),
        ("Section", {RUNTIME: "libs", DEVELOPMENT: "libdevel", TOOLS: "utils"}[package]),
        ("Priority", "optional"),
        ("Description", title + "".join("\n " + line for line in lines)),
    ]
    control = {"control": "".join(f"{name}: {value}\n" for name, value in fields if value)}
    control["md5sums"] = "".join(
        f"{hashlib.md5(entry.content).hexdigest()}  {entry.path}\n" for entry in usr if not entry.link
    )
    if package == RUNTIME:
        names = [os.path.basename(entry.path) for entry in binaries if "/hakmem/" not in entry.path]
        control["shlibs"] = "".join(
            f"{name.split('.so.')[0]} {sources.major} {RUNTIME} (>= {sources.version})\n" for name in names
        )
        control["triggers"] = "activate-noawait ldconfig\n"
    members = [Entry(name, 0o644, text.encode(), None, package) for name, text in sorted(control.items())]
    return archive(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", tarball(members, sources.time)),
            ("data.tar.xz", tarball(usr, sources.time)),
        ],
        sources.time,
    )


def debian_packages(sources):
    """{file name: bytes} of all packages."""
    entries = tree(sources, "/usr", "lib/" + MULTIARCH)
    return {
        f"{package}.deb": debian_package(sources, package, [entry for entry in entries if entry.package == package])
        for package in (RUNTIME, DEVELOPMENT, TOOLS)
    }
