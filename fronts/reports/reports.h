// What the tests of others' reports share: programs of this folder, run with the flavour preloaded
// or by themselves.
#ifndef HAKMEM_FRONTS_REPORTS_REPORTS_H
#define HAKMEM_FRONTS_REPORTS_REPORTS_H

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <string>
#include <utility>

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
    FILE *in = popen(("exec env " + command + " 2>&1").c_str(), "r");
    if (in == nullptr) {
        return {"no shell", ""};
    }
    std::string text;
    char line[4096];
    size_t got;
    while ((got = fread(line, 1, sizeof line, in)) > 0) {
        text.append(line, got);
    }
    int status = pclose(in);
    return {WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                : "exit " + std::to_string(WEXITSTATUS(status)),
            text};
}

// The same with the flavour preloaded.
inline Outcome ShellPreloaded(const std::string &command) {
    return Shell("LD_PRELOAD=" + Library() + " " + command);
}

} // namespace reports

#endif
