# SPDX-License-Identifier: Apache-2.0
"""One self-contained static archive of a flavour."""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

def _static_libraries(deps):
    libraries = []
    for dep in deps:
        for linker_input in dep[CcInfo].linking_context.linker_inputs.to_list():
            for library in linker_input.libraries:
                archive = library.pic_static_library or library.static_library
                if archive and archive not in libraries:  # several deps may bring it
                    libraries.append(archive)
    return libraries

def _hak_archive_impl(ctx):
    libraries = _static_libraries(ctx.attr.deps)

    # The first of what a library brings is the library itself, before what it depends on.
    operators = [_static_libraries([library])[0] for library in ctx.attr.operators]
    out = ctx.actions.declare_file(ctx.attr.out)
    toolchain = find_cpp_toolchain(ctx)
    ctx.actions.run_shell(
        inputs = libraries,
        outputs = [out],
        command = """
set -e
out="$1"; ld="$2"; objcopy="$3"; count="$4"; shift 4
operators=("${@:1:count}"); shift "$count"
name=${out##*/lib}; name=${name%.a}
parts=$out.parts; rm -rf "$parts"; mkdir "$parts"
base=$parts/$name.o; cxx=$parts/${name}_cxx.o

# Two relocatable objects: a program that uses no operator of C++ takes the first of them only. They have no section
# groups: a program's copy of one would replace ours, and what is local there be gone.
libraries=()
for library; do
    [[ " ${operators[*]} " == *" $library "* ]] || libraries+=("$library")
done
"$ld" -r --force-group-allocation -o "$base" --whole-archive "${libraries[@]}"

# The second throws bad_alloc, if there is a C++ library: it refers to that weakly. A static C++ library has the function
# that throws in a member that these two names bring in, one in GNU's and one in LLVM's. Where there is no C++ library
# they stay undefined, and nobody minds, as no code refers to them.
"$ld" -r --force-group-allocation -u _ZSt16__throw_bad_castv -u _ZSt7nothrow -o "$cxx" --whole-archive "${operators[@]}"

# Everything but the exported interface is made local, so that what links the archive sees malloc() and its kin, and no
# name of a box can clash with a program's. What one object needs of the other stays, with a name that nobody else has.
hidden() { readelf -sW "$1" | awk '$6 == "HIDDEN" && $7 != "UND" { print $8 }' | sort -u; }
undefined() { nm -u "$1" | awk '{ print $NF }' | sort -u; }
comm -12 <(hidden "$base") <(undefined "$cxx") >"$parts/shared"
comm -23 <(hidden "$base") "$parts/shared" >"$parts/local"
awk '{ print $1 " hakmem_internal_" $1 }' "$parts/shared" >"$parts/names"
"$objcopy" --localize-symbols="$parts/local" --redefine-syms="$parts/names" "$base"
"$objcopy" --localize-hidden --redefine-syms="$parts/names" "$cxx"
rm -f "$out"
ar rcsD "$out" "$base" "$cxx"
rm -r "$parts"
""",
        arguments = [
            out.path,
            toolchain.ld_executable,
            toolchain.objcopy_executable,
            str(len(operators)),
        ] + [library.path for library in operators + libraries],
        mnemonic = "HakArchive",
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles(files = [out]))]

hak_archive = rule(
    implementation = _hak_archive_impl,
    attrs = {
        "deps": attr.label_list(providers = [CcInfo]),
        # The libraries of C++'s operators, which are among what `deps` bring.
        "operators": attr.label_list(providers = [CcInfo]),
        "out": attr.string(mandatory = True),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)
