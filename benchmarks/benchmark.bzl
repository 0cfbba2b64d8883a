# SPDX-License-Identifier: Apache-2.0
"""Macros: a worker, which does a workload on whatever malloc it has, and a driver, which runs workers."""

load("@rules_cc//cc:defs.bzl", "cc_binary")
load("//tools/build:flavours.bzl", "USER_FLAVOURS")
load("//tools/build:variants.bzl", "NO_SANITIZER", "WARNINGS")

def hak_worker(name, srcs, deps = [], **kwargs):
    """A program to preload an allocator into: as few libraries and system calls as can be.

    Args:
      name: the target's name.
      srcs: C or C++ sources.
      deps: libraries.
      **kwargs: as of cc_binary.
    """
    cc_binary(
        name = name,
        srcs = srcs,
        copts = WARNINGS + [
            "-D_GNU_SOURCE",
            # malloc and free of a block that nobody looks at are to stay.
            "-fno-builtin-malloc",
            "-fno-builtin-calloc",
            "-fno-builtin-realloc",
            "-fno-builtin-free",
        ],
        linkopts = [
            "-pthread",
            "-Wl,--as-needed",
            "-Wl,-z,now",
        ],
        tags = NO_SANITIZER,
        deps = deps + ["//benchmarks:worker"],
        **kwargs
    )

def hak_driver(name, workers, deps = [], data = [], **kwargs):
    """A program that runs workers once an allocator, with every flavour at hand.

    Args:
      name: the target's name; NAME.cc is its source.
      workers: what it runs.
      deps: libraries besides the harness.
      data: what else it reads.
      **kwargs: as of cc_binary.
    """
    cc_binary(
        name = name,
        srcs = [name + ".cc"],
        copts = WARNINGS,
        data = data + workers + ["//:lib%s.so" % flavour.name for flavour in USER_FLAVOURS],
        tags = NO_SANITIZER,
        deps = deps + ["//benchmarks/harness"],
        **kwargs
    )
