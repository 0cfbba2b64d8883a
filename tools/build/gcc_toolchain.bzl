# SPDX-License-Identifier: Apache-2.0
"""Macro: a toolchain of one of Debian's gcc, for a --config that builds for other than the host's processor or C library."""

load("@bazel_tools//tools/cpp:unix_cc_toolchain_config.bzl", "cc_toolchain_config")
load("@rules_cc//cc:defs.bzl", "cc_toolchain", "cc_toolchain_suite")

def gcc_toolchain(
        cpu,
        identifier,
        abi,
        libc,
        system,
        prefix,
        include_directories,
        link_libs = [],
        wrapper = None):
    """Makes :toolchain, for --crosstool_top.

    Args:
      cpu: as --cpu has it.
      identifier: the toolchain's name.
      abi: the processor's application binary interface.
      libc: the C library.
      system: as gcc names the target.
      prefix: of the path of each tool.
      include_directories: where the compiler has headers of its own.
      link_libs: of every program.
      wrapper: a script of the package that is run in place of gcc.
    """
    native.filegroup(name = "nothing")
    native.filegroup(
        name = "compiler",
        srcs = [wrapper] if wrapper else [],
    )
    cc_toolchain_suite(
        name = "toolchain",
        tags = ["manual"],
        toolchains = {cpu: ":gcc"},
    )
    cc_toolchain(
        name = "gcc",
        all_files = ":compiler",
        ar_files = ":nothing",
        as_files = ":compiler",
        compiler_files = ":compiler",
        dwp_files = ":nothing",
        linker_files = ":compiler",
        objcopy_files = ":nothing",
        strip_files = ":nothing",
        tags = ["manual"],
        toolchain_config = ":config",
    )
    tools = ["ar", "cpp", "dwp", "gcov", "ld", "nm", "objcopy", "objdump", "strip"]
    paths = {tool: prefix + tool for tool in tools}
    paths["gcc"] = wrapper or prefix + "gcc"
    paths["llvm-cov"] = "/usr/bin/llvm-cov"  # the rule wants a name
    cc_toolchain_config(
        name = "config",
        abi_libc_version = libc,
        abi_version = abi,
        compile_flags = [
            "-U_FORTIFY_SOURCE",
            "-fstack-protector",
            "-Wall",
            "-Wno-free-nonheap-object",
        ],
        compiler = "gcc",
        cpu = cpu,
        cxx_builtin_include_directories = include_directories,
        dbg_compile_flags = ["-g"],
        host_system_name = "local",
        link_flags = [
            "-Wl,-no-as-needed",
            "-Wl,-z,relro,-z,now",
            "-pass-exit-codes",
        ],
        link_libs = link_libs,
        opt_compile_flags = [
            "-g0",
            "-O2",
            "-D_FORTIFY_SOURCE=1",
            "-DNDEBUG",
            "-ffunction-sections",
            "-fdata-sections",
        ],
        opt_link_flags = ["-Wl,--gc-sections"],
        supports_start_end_lib = False,
        tags = ["manual"],
        target_libc = libc,
        target_system_name = system,
        tool_paths = paths,
        toolchain_identifier = identifier,
        unfiltered_compile_flags = [
            "-fno-canonical-system-headers",
            "-Wno-builtin-macro-redefined",
            "-D__DATE__=\"redacted\"",
            "-D__TIMESTAMP__=\"redacted\"",
            "-D__TIME__=\"redacted\"",
        ],
    )
