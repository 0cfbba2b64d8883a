# SPDX-License-Identifier: Apache-2.0
"""The flavours of the allocator, as data. A new one is one entry here: it gets its library, its
shared object and its share of the tests from hak_flavours() in hakmem.bzl."""

_C23 = "//fronts/tiny_front_c23"
_CLASSIC = "//fronts/tiny_front_classic"
_POOL = "//fronts/tiny_front_pool"

# C0..C7
_C23_FRONTS = [_POOL, _POOL, _C23, _C23, _POOL, _POOL, _POOL, _POOL]

# name         what `bazel build //:NAME` builds, and libNAME.so
# variant      the build settings of all its boxes: a key of VARIANTS
# fronts       which front serves C0..C7
# alternative  what serves C2 and C3 when HAKMEM_TINY_FRONT_C23_SIMPLE is 0, or None: no choice
# backend      what stands behind backends/os.h
FLAVOURS = [
    # The production one.
    struct(
        name = "hakmem_c23",
        variant = "",
        fronts = _C23_FRONTS,
        alternative = _CLASSIC,
        backend = "//backends/linux",
    ),
    # The header byte instead of the page map, and with it blocks of powers of two.
    struct(
        name = "hakmem_c23_header",
        variant = "_header",
        fronts = _C23_FRONTS,
        alternative = _CLASSIC,
        backend = "//backends/linux",
    ),
    # The baseline: the traditional layers for all tiny classes.
    struct(
        name = "hakmem_classic",
        variant = "",
        fronts = [_CLASSIC] * 8,
        alternative = None,
        backend = "//backends/linux",
    ),
    # The production one with its invariants checked.
    struct(
        name = "hakmem_c23_debug",
        variant = "_debug",
        fronts = _C23_FRONTS,
        alternative = _CLASSIC,
        backend = "//backends/linux",
    ),
]

# Flavours for users that have no part in what is measured and shipped for all of FLAVOURS.
HARDENED_FLAVOURS = [
    # For programs that face attackers: docs/hardened.md.
    struct(
        name = "hakmem_hardened",
        variant = "_hardened",
        fronts = ["//fronts/tiny_front_hardened"] * 8,
        alternative = None,
        backend = "//backends/linux",
    ),
]

# The suite's tests that do not run on them: they test what those flavours do in another way.
HARDENED_WITHOUT = [
    "check_frees_test",  # what HAKMEM_CHECK_FREES does: hardened_test
]

# What a test needs to run on them as on the others.
HARDENED_ENV = {
    # A free gives a slab back: not one that waits, nor one that stays its size's.
    "stalled_reclaim_test": {
        "HAKMEM_QUARANTINE": "0",
        "HAKMEM_SEPARATE": "0",
    },
}

# What users may have.
USER_FLAVOURS = FLAVOURS + HARDENED_FLAVOURS

# Flavours that only tests may link. They run the same tests as the others.
TEST_FLAVOURS = [
    struct(name = "hakmem_example", variant = "", fronts = ["//fronts/tiny_front_example"] * 8, alternative = None, backend = "//backends/linux"),
]

# Each of them again on the backend that fails on a script, as NAME_faulty: what is left of a program
# when the kernel refuses. For the tests that ask for it; the other tests do not run on these.
FAULTY_FLAVOURS = [
    struct(
        name = flavour.name + "_faulty",
        variant = flavour.variant,
        fronts = flavour.fronts,
        alternative = flavour.alternative,
        backend = "//backends/faulty",
    )
    for flavour in USER_FLAVOURS
]

# The production one as the simulator of benchmarks/coherence runs it: a shared object and nothing else.
TRACED_FLAVOURS = [
    struct(
        name = "hakmem_c23_traced",
        variant = "_traced",
        fronts = _C23_FRONTS,
        alternative = _CLASSIC,
        backend = "//backends/linux",
    ),
]

# The sonames of other allocators' libraries -> the front that adds what those export beyond malloc. Each flavour gets
# a shared object of each: the first of FLAVOURS in bazel-bin/compat, the others in a folder of their name in there.
COMPAT = {
    "libjemalloc.so.2": "//fronts/compat/jemalloc",
    "libmimalloc.so.2": "//fronts/compat/mimalloc",
    "libtcmalloc.so.4": "//fronts/compat/tcmalloc",
    "libtcmalloc_minimal.so.4": "//fronts/compat/tcmalloc",
}
