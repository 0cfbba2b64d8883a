# SPDX-License-Identifier: Apache-2.0
"""Build settings of the boxes, as data: each box is compiled once a variant that someone needs."""

# Suffix of the targets -> what is different about them.
VARIANTS = {
    "": [],
    "_debug": ["-DHAK_DEBUG=1"],
    "_hardened": [
        "-DHAK_HARDENED=1",
        # What is freed is zero, so that a write to it is seen.
        "-DFREE_MARK=0",
    ],
    "_header": ["-DHAK_HEADER=1"],
    # For the simulator of benchmarks/coherence, which alone has the functions that the instrumentation calls.
    "_traced": [
        "-DCPU_TRACED=1",
        "-fsanitize=thread",
        "-g1",
    ],
}

# Tags of what has its malloc preloaded or linked in: a sanitizer brings one of its own.
NO_SANITIZER = [
    "noasan",
    "notsan",
    "noubsan",
]

# Tags of all that is built as a variant. What has another sanitizer's instrumentation cannot be in such a build, and is
# built where it is asked for.
VARIANT_TAGS = {
    "_traced": NO_SANITIZER + ["manual"],
}

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wundef",
    "-Wvla",
    "-Werror",
]

# A workspace that takes a flavour from here may have other standards, or Bazel's, which is C++11.
STANDARD_C = ["-std=gnu17"]
STANDARD_CXX = [
    "-std=c++17",
    # Clang before 19 does not take that from the standard.
    "-fsized-deallocation",
]

COPTS = WARNINGS + [
    "-D_GNU_SOURCE",
    "-O2",
    # Each process would map 64 KiB more of libc for the checked functions alone, whose addresses are looked up as it starts.
    "-U_FORTIFY_SOURCE",
    "-fomit-frame-pointer",
    # Only what is marked as exported is seen from outside, and nothing inside goes through the PLT.
    "-fvisibility=hidden",
    "-fno-semantic-interposition",
    "-fno-plt",
    # An allocator's calloc() must not be "optimised" into a call of itself.
    "-fno-builtin-malloc",
    "-fno-builtin-calloc",
    "-fno-builtin-realloc",
    "-fno-builtin-free",
]
