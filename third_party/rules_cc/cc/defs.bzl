# SPDX-License-Identifier: Apache-2.0
"""The names that upstream's @rules_cc//cc:defs.bzl exports, bound to the rules built into Bazel 4.

Debian's bazel-rules-cc 0.0.4 does not load in its Bazel 4.2.3; newer Bazels have no built-in cc rules.
Loading them from here keeps our BUILD files the same for both.
"""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
fdo_prefetch_hints = native.fdo_prefetch_hints
fdo_profile = native.fdo_profile
