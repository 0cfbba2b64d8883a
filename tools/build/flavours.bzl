"""The flavours of the allocator, as data. A new one is one entry here: it gets its library, its
shared object and its share of the tests from hak_flavours() in hakmem.bzl."""

_C23 = "//fronts/tiny_front_c23"
_POOL = "//fronts/tiny_front_pool"

# name     what `bazel build //:NAME` builds, and libNAME.so
# variant  the build settings of all its boxes: a key of VARIANTS
# fronts   which front serves C0..C7
# backend  what stands behind backends/os.h
FLAVOURS = [
    struct(
        name = "hakmem_c23",
        variant = "",
        fronts = [_POOL, _POOL, _C23, _C23, _POOL, _POOL, _POOL, _POOL],
        backend = "//backends/linux",
    ),
    struct(
        name = "hakmem_c23_debug",
        variant = "_debug",
        fronts = [_POOL, _POOL, _C23, _C23, _POOL, _POOL, _POOL, _POOL],
        backend = "//backends/linux",
    ),
]
