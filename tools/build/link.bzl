# SPDX-License-Identifier: Apache-2.0
"""A symbolic link to a file that is built, under the target's own name."""

def _hak_link_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = out, target_file = ctx.file.actual)
    return [DefaultInfo(
        files = depset([out]),
        runfiles = ctx.runfiles(files = [out, ctx.file.actual]),
    )]

hak_link = rule(
    implementation = _hak_link_impl,
    attrs = {"actual": attr.label(allow_single_file = True, mandatory = True)},
)
