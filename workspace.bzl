# SPDX-License-Identifier: Apache-2.0
"""For the WORKSPACE of a workspace that uses hakmem:

    local_repository(name = "hakmem", path = "/path/to/hakmem")
    load("@hakmem//:workspace.bzl", "hakmem_repositories")
    hakmem_repositories()

Then `malloc = "@hakmem//:hakmem_c23"` in its cc_binary and cc_test rules."""

def _linked_repository_impl(repository_ctx):
    if repository_ctx.attr.third_party:
        here = repository_ctx.path(Label("//third_party:BUILD.bazel")).dirname
        folder = here.get_child(repository_ctx.attr.third_party)
    else:
        folder = repository_ctx.path(repository_ctx.attr.path)
        if not folder.exists:
            fail("%s is not there: install Debian's %s, or call hakmem_repositories(debian = False)" % (
                folder,
                repository_ctx.attr.package,
            ))
    for entry in folder.readdir():
        repository_ctx.symlink(entry, entry.basename)

_linked_repository = repository_rule(
    implementation = _linked_repository_impl,
    attrs = {
        "third_party": attr.string(doc = "the folder's name in third_party"),
        "path": attr.string(doc = "or the folder's absolute path"),
        "package": attr.string(doc = "the package of Debian that brings it"),
    },
    doc = "A folder of this machine.",
    local = True,
)

# What WORKSPACE's invisible end asks for, and what Debian has of it.
_DEBIAN = {
    "bazel_skylib": ("/usr/share/bazel/tools/skylib", "bazel-skylib"),
    "platforms": ("/usr/share/bazel/tools/platforms", "bazel-platforms"),
    "rules_java": ("/usr/share/bazel/rules/java", "bazel-rules-java"),
    "rules_proto": ("/usr/share/bazel/rules/proto", "bazel-rules-proto"),
}

def hakmem_repositories(debian = True):
    """The repositories that a build of hakmem needs, of those that the workspace does not have yet.

    Args:
      debian: also those that Bazel downloads if nobody names them, from Debian's packages, so that nothing is
        fetched.
    """
    if not native.existing_rule("rules_cc"):
        _linked_repository(
            name = "rules_cc",
            third_party = "rules_cc",
        )
    if not debian:
        return
    if not native.existing_rule("remote_coverage_tools"):
        _linked_repository(
            name = "remote_coverage_tools",
            third_party = "remote_coverage_tools",
        )
    for name, (path, package) in _DEBIAN.items():
        if not native.existing_rule(name):
            _linked_repository(name = name, path = path, package = package)
