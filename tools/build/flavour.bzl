# SPDX-License-Identifier: Apache-2.0
"""A flavour as a target: links the allocator into programs, and is the files that are built of it."""

def _flavour_impl(ctx):
    files = depset(ctx.files.files)
    return [
        cc_common.merge_cc_infos(cc_infos = [dep[CcInfo] for dep in ctx.attr.deps]),
        DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files)),
    ]

# Bazel 4 takes only what is called so as the `malloc` of a program.
cc_library = rule(
    implementation = _flavour_impl,
    attrs = {
        "deps": attr.label_list(providers = [CcInfo]),
        "files": attr.label_list(allow_files = True, doc = "what `bazel build` of the target names and leaves in bazel-bin"),
    },
)
