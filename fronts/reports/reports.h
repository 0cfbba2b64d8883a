// SPDX-License-Identifier: Apache-2.0
// What the tests of others' reports share: programs of this folder, run with the flavour preloaded
// or by themselves.
#ifndef HAKMEM_FRONTS_REPORTS_REPORTS_H
#define HAKMEM_FRONTS_REPORTS_REPORTS_H

#include <limits.h>
#include <stdlib.h>

#include <string>
#include <utility>

#include "fronts/libc/shell.h"

namespace reports {

// How a command ended ("exit 0", "signal 6") and what it wrote on stdout and stderr.
using Outcome = std::pair<std::string, std::string>;

inline std::string Absolute(const std::string &path) {
    char real[PATH_MAX];
    return realpath(path.c_str(), real) == nullptr ? path : real;
}

// A file of this folder.
inline std::string Path(const std::string &name) {
    return Absolute("fronts/reports/" + name);
}

// The flavour's shared object.
inline std::string Library() {
    return Absolute("lib" HAK_FLAVOUR ".so");
}

// Runs a command line of the shell, which is not to be in the way: the command replaces it, with
// the variables that stand in front of it.
inline Outcome Shell(const std::string &command) {
    shell::Outcome outcome = shell::Run("exec env " + command + " 2>&1");
    return {outcome.ending, outcome.text};
}

// The same with the flavour preloaded.
inline Outcome ShellPreloaded(const std::string &command) {
    return Shell("LD_PRELOAD=" + Library() + " " + command);
}

} // namespace reports

#endif
