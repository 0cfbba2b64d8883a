# SPDX-License-Identifier: Apache-2.0
"""Macro: a fuzz target, built twice from one source."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_test")
load("//tools/build:flavours.bzl", "USER_FLAVOURS")
load("//tools/build:hakmem.bzl", "variant_label")
load("//tools/build:variants.bzl", "NO_SANITIZER", "VARIANTS", "WARNINGS")

def hak_fuzz(name, deps, variants = [""], flavours = False, runs = 20000, linkopts = [], tags = [], **kwargs):
    """NAME.cc, which defines LLVMFuzzerTestOneInput, for two purposes.

    NAME_test (plus suffix) is an ordinary test: it runs the inputs kept in the folder of the same name that ends in
    _corpus instead of _fuzz, and `runs` random ones. NAME (plus suffix) is what tools/fuzz builds with clang's
    libFuzzer and runs for as long as one likes.

    Args:
      name: the target's name, which ends in _fuzz.
      deps: boxes, by their plain labels; libraries as they are if `flavours`.
      variants: which builds of the boxes are fuzzed: keys of VARIANTS.
      flavours: instead, one target a flavour, with the flavour as its malloc.
      runs: random inputs of the test.
      linkopts: as of cc_test.
      tags: as of cc_test.
      **kwargs: as of cc_test and cc_binary.
    """
    corpus = name[:-len("_fuzz")] + "_corpus"
    if flavours:
        # Without the shared object that comes with //:NAME, which libFuzzer's callbacks keep from linking.
        builds = [
            (
                "_" + flavour.name,
                VARIANTS[flavour.variant] + ["-fno-builtin"],
                deps,
                {"malloc": "//:" + flavour.name + "_boxes"},
            )
            for flavour in USER_FLAVOURS
        ]
        tags = tags + NO_SANITIZER
    else:
        builds = [
            (variant, VARIANTS[variant], [variant_label(dep, variant) for dep in deps], {})
            for variant in variants
        ]
    for suffix, copts, libraries, malloc in builds:
        common = dict(
            srcs = [name + ".cc"],
            copts = WARNINGS + ["-D_GNU_SOURCE"] + copts,
            linkopts = ["-pthread"] + linkopts,
            **dict(malloc, **kwargs)
        )
        cc_test(
            name = name + "_test" + suffix,
            size = "small",
            args = [native.package_name() + "/" + corpus, str(runs)],
            data = native.glob([corpus + "/*"]),
            tags = tags,
            deps = libraries + ["//tools/build:fuzz_main"],
            **common
        )
        cc_binary(
            name = name + suffix,
            testonly = True,
            tags = tags + ["fuzz", "manual"],
            deps = libraries + ["//tools/build:fuzz"],
            **common
        )
