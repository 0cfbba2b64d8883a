# SPDX-License-Identifier: Apache-2.0
"""Macros: a box, its test and its benchmark, a flavour and its tests."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")
load("//tools/build:archive.bzl", "hak_archive")
load("//tools/build:flavour.bzl", hak_flavour_library = "cc_library")
load("//tools/build:flavours.bzl", "COMPAT", "FAULTY_FLAVOURS", "FLAVOURS", "HARDENED_ENV", "HARDENED_FLAVOURS", "HARDENED_WITHOUT", "TEST_FLAVOURS", "TRACED_FLAVOURS", "USER_FLAVOURS")
load("//tools/build:link.bzl", "hak_link")
load("//tools/build:variants.bzl", "COPTS", "NO_SANITIZER", "STANDARD_C", "STANDARD_CXX", "VARIANTS", "VARIANT_TAGS", "WARNINGS")

def variant_label(label, variant):
    """The label of the same box, compiled as `variant` (a suffix)."""
    if ":" in label:
        return label + variant
    return label + ":" + label.split("/")[-1] + variant

def hak_box(name, srcs = [], hdrs = [], deps = [], visibility = None, tags = [], **kwargs):
    """A box: one cc_library a variant. `deps` are other boxes.

    Sources of both languages make two libraries, as each has options of its own: NAME_c has those in C.

    Args:
      name: the box's name, which is its folder's.
      srcs: sources in C, or in C++ for what C cannot express.
      hdrs: its contract.
      deps: other boxes, by their plain labels.
      visibility: who may call it.
      tags: as of cc_library.
      **kwargs: as of cc_library.
    """
    cxx = [src for src in srcs if src.endswith(".cc")]
    c = [src for src in srcs if not src.endswith(".cc")]
    both = [src for src in c if src.endswith(".c")] != [] and cxx != []
    for variant, copts in VARIANTS.items():
        boxes = [variant_label(dep, variant) for dep in deps]
        if both:
            cc_library(
                name = name + "_c" + variant,
                srcs = c,
                hdrs = hdrs,
                copts = COPTS + STANDARD_C + copts,
                linkstatic = True,
                tags = tags + VARIANT_TAGS.get(variant, []),
                visibility = visibility,
                deps = boxes,
                **kwargs
            )
        cc_library(
            name = name + variant,
            srcs = cxx + [src for src in c if src.endswith(".h")] if both else srcs,
            hdrs = hdrs,
            copts = COPTS + (STANDARD_CXX if cxx else STANDARD_C) + copts,
            linkstatic = True,
            tags = tags + VARIANT_TAGS.get(variant, []),
            visibility = visibility,
            deps = boxes + ([":" + name + "_c" + variant] if both else []),
            **kwargs
        )

def hak_test(name, srcs, deps, variants = [""], tags = [], linkopts = [], **kwargs):
    """A GoogleTest of one box, in C++: one cc_test a variant, NAME plus the variant's suffix.

    Args:
      name: the test's name.
      srcs: GoogleTest sources.
      deps: boxes, by their plain labels.
      variants: which builds of the boxes are tested: keys of VARIANTS.
      tags: as of cc_test.
      linkopts: as of cc_test.
      **kwargs: as of cc_test.
    """
    for variant in variants:
        cc_test(
            name = name + variant,
            srcs = srcs,
            copts = WARNINGS + ["-D_GNU_SOURCE"] + VARIANTS[variant],
            linkopts = ["-pthread"] + linkopts,
            tags = tags,
            deps = [variant_label(dep, variant) for dep in deps] + [
                "@com_google_googletest//:gtest_main",
            ],
            **kwargs
        )

def hak_long_model_test(name, srcs, deps):
    """The searches of a model that take minutes and gigabytes: tools/model --long runs them.

    Args:
      name: the test's name.
      srcs: sources of the model and its test; these searches are its disabled tests.
      deps: boxes, by their plain labels.
    """
    hak_test(
        name = name,
        timeout = "eternal",
        srcs = srcs,
        args = [
            "--gtest_also_run_disabled_tests",
            "--gtest_filter=*DISABLED_*",
        ],
        tags = [
            "exclusive",
            "manual",
            "model_long",
        ],
        deps = deps,
    )

def hak_benchmark(name, srcs, deps, variants = [""], tags = [], **kwargs):
    """A Google Benchmark of one box, in C++: one cc_binary a variant, NAME plus the variant's suffix.

    Args:
      name: the benchmark's name.
      srcs: Google Benchmark sources.
      deps: boxes, by their plain labels.
      variants: which builds of the boxes are measured: keys of VARIANTS.
      tags: as of cc_binary.
      **kwargs: as of cc_binary.
    """
    for variant in variants:
        cc_binary(
            name = name + variant,
            testonly = True,
            srcs = srcs,
            copts = WARNINGS + ["-D_GNU_SOURCE"] + VARIANTS[variant],
            linkopts = ["-pthread"],
            tags = tags,
            deps = [variant_label(dep, variant) for dep in deps] + [
                "@com_github_google_benchmark//:benchmark_main",
            ],
            **kwargs
        )

# Counts the incompatible changes of the interface that hakmem.h declares: the number behind the names of shared
# objects, which is also that of the symbols' version in exports.map.
ABI = "1"

_SHARED_LINKOPTS = [
    "-Wl,--version-script=$(location //tools/build:exports.map)",
    "-Wl,-z,nodelete",
    "-Wl,-z,now",
    "-Wl,-z,relro",
    "-Wl,-z,defs",
    "-Wl,--as-needed",
]

def _compat(flavour):
    """The folder of a flavour's compat libraries, in bazel-bin."""
    return "compat/" + ("" if flavour == FLAVOURS[0] else flavour.name + "/")

def _flavour_boxes(flavour, testonly = False):
    """All of a flavour, as libraries: NAME_boxes. Returns what its shared object is made of."""
    name = flavour.name
    variant = flavour.variant
    tags = VARIANT_TAGS.get(variant, [])
    alternative = [flavour.alternative] if flavour.alternative else []
    fronts = {front: True for front in flavour.fronts + alternative}.keys()
    copts = COPTS + STANDARD_C + VARIANTS[variant] + ["-DHAK_FLAVOUR='\"%s\"'" % name]

    cc_library(
        name = name + "_table",
        testonly = testonly,
        srcs = ["//fronts/tiny_front:tiny_front_table.c"],
        copts = copts + [
            "-DHAK_FRONT_C%d=%s" % (i, flavour.fronts[i].split("/")[-1])
            for i in range(len(flavour.fronts))
        ] + [
            "-DHAK_FRONT_ALTERNATIVE=" + front.split("/")[-1]
            for front in alternative
        ],
        linkstatic = True,
        alwayslink = True,
        tags = tags,
        visibility = ["//fronts/libc:__pkg__"],
        deps = [variant_label(dep, variant) for dep in fronts + [
            "//fronts/tiny_front",
            "//include",
        ]],
    )

    # All of the flavour, as libraries: what the picture of the allocator is drawn from.
    cc_library(
        name = name + "_boxes",
        testonly = testonly,
        deps = [":" + name + "_table"] + [
            variant_label(dep, variant)
            for dep in ["//fronts/libc", "//fronts/cxx"]
        ] + [variant_label(flavour.backend, variant)],
        linkstatic = True,
        alwayslink = True,
        tags = tags,
        visibility = ["//fronts:__subpackages__"],
    )

    return [":" + name + "_boxes"] + [
        variant_label(dep, variant)
        for dep in ["//fronts/dl:dl_open", "//boxes/probe:notes"]
    ]

def _flavour(flavour, testonly = False):
    name = flavour.name
    variant = flavour.variant
    shared = _flavour_boxes(flavour, testonly)
    cc_binary(
        name = "lib" + name + ".so",
        testonly = testonly,
        additional_linker_inputs = ["//tools/build:exports.map"],
        linkshared = True,
        linkopts = _SHARED_LINKOPTS + ["-Wl,-soname,lib%s.so.%s" % (name, ABI)],
        deps = shared,
        visibility = ["//visibility:public"],
    )

    # By this name the dynamic linker looks for it, in a program that is linked with the one above.
    hak_link(
        name = "lib%s.so.%s" % (name, ABI),
        testonly = testonly,
        actual = ":lib" + name + ".so",
        visibility = ["//visibility:public"],
    )

    for library, front in COMPAT.items():
        cc_binary(
            name = _compat(flavour) + library,
            testonly = testonly,
            additional_linker_inputs = ["//tools/build:exports.map"],
            linkshared = True,
            linkopts = _SHARED_LINKOPTS + ["-Wl,-soname," + library],
            deps = shared + [variant_label(front, variant)],
            visibility = ["//visibility:public"],
        )

    # All of it under the names of other allocators' libraries, in one folder.
    native.filegroup(
        name = name + "_compat",
        testonly = testonly,
        srcs = [_compat(flavour) + library for library in COMPAT.keys()],
        visibility = ["//visibility:public"],
    )

    # A program's dlopen() stays libc's.
    linked = [":" + name + "_boxes", variant_label("//fronts/dl:dl_linked", variant)]

    hak_archive(
        name = name + "_archive",
        testonly = testonly,
        out = "lib" + name + ".a",
        operators = [
            variant_label("//fronts/cxx", variant),
            variant_label("//fronts/cxx:cxx_c", variant),
        ],
        deps = linked,
        visibility = ["//visibility:public"],
    )

    # `bazel build //:NAME` leaves the static and the shared library in bazel-bin, and
    # `malloc = "//:NAME"` links the allocator into a program.
    hak_flavour_library(
        name = name,
        testonly = testonly,
        files = [
            ":lib" + name + ".so",
            ":lib%s.so.%s" % (name, ABI),
            ":" + name + "_archive",
        ],
        deps = linked,
        visibility = ["//visibility:public"],
    )

def _traced_flavour(flavour):
    """Its shared object, whose undefined symbols are the simulator's."""
    cc_binary(
        name = "lib%s.so" % flavour.name,
        testonly = True,
        additional_linker_inputs = [
            "//benchmarks/coherence:wraps.txt",
            "//tools/build:exports.map",
        ],
        linkshared = True,
        linkopts = [option for option in _SHARED_LINKOPTS if option != "-Wl,-z,defs"] + [
            "-Wl,@$(location //benchmarks/coherence:wraps.txt)",
        ],
        tags = NO_SANITIZER,
        visibility = ["//benchmarks/coherence:__pkg__"],
        deps = _flavour_boxes(flavour, testonly = True),
    )

def hak_flavours():
    """The targets of every flavour, in the package that calls it."""
    native.alias(
        name = "compat",
        actual = ":" + FLAVOURS[0].name + "_compat",
        visibility = ["//visibility:public"],
    )
    for flavour in USER_FLAVOURS:
        _flavour(flavour)
    for flavour in TEST_FLAVOURS + FAULTY_FLAVOURS:
        _flavour(flavour, testonly = True)
    for flavour in TRACED_FLAVOURS:
        _traced_flavour(flavour)

def _program(name, src, malloc, copts = [], linkopts = [], deps = []):
    """A program in C that a test runs."""
    cc_binary(
        name = name,
        testonly = True,
        srcs = [src],
        copts = WARNINGS + copts + [
            "-D_GNU_SOURCE",
            "-fno-builtin",
        ],
        # Bazel links every program with the C++ library.
        linkopts = linkopts + [
            "-pthread",
            "-Wl,--as-needed",
        ],
        malloc = malloc,
        tags = NO_SANITIZER,
        deps = deps,
    )

def hak_preload_test(name, srcs, program, copts = [], linkopts = [], linked = False, data = [], deps = [], **kwargs):
    """A test that runs a C program with each flavour preloaded, by shell.h: NAME and PROGRAM.

    Args:
      name: the test's name.
      srcs: GoogleTest sources; HAK_FLAVOURS is the names of the flavours, as strings with commas between them.
      program: the program's name; PROGRAM.c is its source.
      copts: more options for the program's compiler.
      linkopts: and for its linker.
      linked: whether there is to be a PROGRAM_linked with hakmem_c23 in itself, too.
      data: files that the test needs besides.
      deps: boxes that the test links besides, by their plain labels.
      **kwargs: as of hak_test.
    """
    mallocs = {program: "@bazel_tools//tools/cpp:malloc"}
    if linked:
        mallocs[program + "_linked"] = "//:hakmem_c23"
    for binary, malloc in mallocs.items():
        _program(
            name = binary,
            src = program + ".c",
            malloc = malloc,
            copts = copts,
            linkopts = linkopts,
        )
    hak_test(
        name = name,
        srcs = srcs,
        data = mallocs.keys() + ["//:lib%s.so" % flavour.name for flavour in USER_FLAVOURS] + data,
        local_defines = ["HAK_FLAVOURS=" + ",".join(['\\"%s\\"' % flavour.name for flavour in USER_FLAVOURS])],
        tags = NO_SANITIZER,
        deps = ["//fronts/libc:shell"] + deps,
        **kwargs
    )

def hak_program_tests(name, srcs, program, flavours = USER_FLAVOURS + TEST_FLAVOURS, boxes = [], **kwargs):
    """Tests that run a C program with a flavour linked in: NAME_FLAVOUR and PROGRAM_FLAVOUR, one of each a flavour.

    Args:
      name: prefix of the tests' names.
      srcs: GoogleTest sources; HAK_FLAVOUR is the name of the flavour.
      program: prefix of the programs' names; PROGRAM.c is its source.
      flavours: entries of flavours.bzl.
      boxes: boxes that the program links besides, by their plain labels.
      **kwargs: as of cc_test.
    """
    for flavour in flavours:
        _program(
            name = program + "_" + flavour.name,
            src = program + ".c",
            malloc = "//:" + flavour.name,
            copts = VARIANTS[flavour.variant],
            deps = [variant_label(box, flavour.variant) for box in boxes],
        )
        cc_test(
            name = name + "_" + flavour.name,
            srcs = srcs,
            copts = WARNINGS + [
                "-D_GNU_SOURCE",
                "-DHAK_FLAVOUR='\"%s\"'" % flavour.name,
            ],
            data = [":%s_%s" % (program, flavour.name)],
            tags = NO_SANITIZER,
            deps = ["@com_google_googletest//:gtest_main"],
            **kwargs
        )

def _flavour_test_copts(flavour):
    return WARNINGS + [
        "-D_GNU_SOURCE",
        "-fno-builtin",
        "-DHAK_FLAVOUR='\"%s\"'" % flavour.name,
    ] + VARIANTS[flavour.variant] + (["-DHAK_FOR_TESTS"] if flavour in TEST_FLAVOURS else [])

def hak_flavour_tests(name, srcs, deps = [], tags = [], flavours = None, env = {}, **kwargs):
    """One cc_test a flavour, with the flavour as its malloc: NAME_FLAVOUR.

    Args:
      name: prefix of the tests' names.
      srcs: GoogleTest sources.
      deps: libraries besides GoogleTest.
      tags: more tags; a program with its own malloc cannot run under the sanitizers.
      flavours: names, or None for all.
      env: as of cc_test.
      **kwargs: as of cc_test.
    """
    for flavour in USER_FLAVOURS + TEST_FLAVOURS:
        hardened = flavour in HARDENED_FLAVOURS
        runs = not hardened or name not in HARDENED_WITHOUT
        if runs if flavours == None else flavour.name in flavours:
            cc_test(
                name = name + "_" + flavour.name,
                srcs = srcs,
                copts = _flavour_test_copts(flavour),
                linkopts = ["-pthread"],
                env = dict(env, **(HARDENED_ENV.get(name, {}) if hardened else {})),
                malloc = "//:" + flavour.name,
                tags = tags + NO_SANITIZER,
                deps = deps + ["@com_google_googletest//:gtest_main"],
                **kwargs
            )

def hak_compat_tests(name, srcs, library, deps = [], **kwargs):
    """One cc_test a flavour, linked to the flavour's compat library: NAME_FLAVOUR.

    Args:
      name: prefix of the tests' names.
      srcs: GoogleTest sources.
      library: its soname, a key of COMPAT.
      deps: libraries besides GoogleTest.
      **kwargs: as of cc_test.
    """
    for flavour in USER_FLAVOURS:
        cc_test(
            name = name + "_" + flavour.name,
            srcs = srcs + ["//:" + _compat(flavour) + library],
            copts = _flavour_test_copts(flavour),
            linkopts = ["-pthread"],
            tags = NO_SANITIZER,
            deps = deps + [
                "//fronts/libc:test_util",
                "@com_google_googletest//:gtest_main",
            ],
            **kwargs
        )
