"""One self-contained static archive of a flavour."""

def _hak_archive_impl(ctx):
    libraries = []
    for dep in ctx.attr.deps:
        for linker_input in dep[CcInfo].linking_context.linker_inputs.to_list():
            for library in linker_input.libraries:
                archive = library.pic_static_library or library.static_library
                if archive and archive not in libraries: # several deps may bring it
                    libraries.append(archive)
    out = ctx.actions.declare_file(ctx.attr.out)

    # One relocatable object, in which everything but the exported interface is made local: what
    # links it sees malloc() and its kin, and no name of a box can clash with a program's. It has no
    # section groups: a program's copy of one would replace ours, and what is local there be gone.
    ctx.actions.run_shell(
        inputs = libraries,
        outputs = [out],
        command = """
set -e
object="$1.o"; out="$1"; shift
ld -r --force-group-allocation -o "$object" --whole-archive "$@"
objcopy --localize-hidden "$object"
rm -f "$out"
ar rcsD "$out" "$object"
rm -f "$object"
""",
        arguments = [out.path] + [library.path for library in libraries],
        mnemonic = "HakArchive",
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles(files = [out]))]

hak_archive = rule(
    implementation = _hak_archive_impl,
    attrs = {
        "deps": attr.label_list(providers = [CcInfo]),
        "out": attr.string(mandatory = True),
    },
)
