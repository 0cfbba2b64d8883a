# SPDX-License-Identifier: Apache-2.0
"""Abseil as Debian's libabsl-dev has it, under upstream's target names."""

_HEADERS = "/usr/include/absl"
_ARCHIVES = "/usr/lib/x86_64-linux-gnu"

# Package below absl/ -> its targets. Each stands for a header of the same name; add what you include.
_TARGETS = {
    "base": ["base", "config", "core_headers"],
    "container": [
        "btree",
        "fixed_array",
        "flat_hash_map",
        "flat_hash_set",
        "inlined_vector",
        "node_hash_map",
        "node_hash_set",
    ],
    "hash": ["hash"],
    "numeric": ["bits", "int128"],
    "random": ["random"],
    "status": ["status", "statusor"],
    "strings": ["cord", "str_format", "strings"],
    "synchronization": ["synchronization"],
    "time": ["time"],
    "types": ["optional", "span"],
}

# One target carries every archive: the linker takes from them only what is used, and in a group
# their order does not matter. "-l:NAME.a", as a plain -l would prefer the shared library.
_ROOT_BUILD = """\
load("@rules_cc//cc:defs.bzl", "cc_library")

cc_library(
    name = "archives",
    linkopts = [
        "-Wl,--start-group",
{archives}
        "-Wl,--end-group",
        "-pthread",
    ],
    visibility = ["//:__subpackages__"],
)
"""

_TARGET = """
cc_library(
    name = "{name}",
    visibility = ["//visibility:public"],
    deps = ["//:archives"],
)
"""

def _debian_abseil_impl(repository_ctx):
    archives = sorted([
        path.basename
        for path in repository_ctx.path(_ARCHIVES).readdir()
        if path.basename.startswith("libabsl_") and path.basename.endswith(".a")
    ])
    if not archives or not repository_ctx.path(_HEADERS).exists:
        fail("no abseil in %s: apt-get install libabsl-dev, or use ./bazelw, which does" % _ARCHIVES)

    repository_ctx.file("BUILD.bazel", _ROOT_BUILD.format(
        archives = "\n".join(["        \"-l:%s\"," % archive for archive in archives]),
    ))
    for package, names in _TARGETS.items():
        repository_ctx.file("absl/%s/BUILD.bazel" % package, "\n".join(
            ["load(\"@rules_cc//cc:defs.bzl\", \"cc_library\")"] + [_TARGET.format(name = name) for name in names],
        ))

debian_abseil = repository_rule(
    implementation = _debian_abseil_impl,
    doc = "A repository of cc_library targets for the abseil in /usr, whichever release that is.",
    local = True,
)
