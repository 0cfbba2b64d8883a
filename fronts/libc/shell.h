// SPDX-License-Identifier: Apache-2.0
// A command line of the shell, for tests that look at a program's output and exit status.
#ifndef HAKMEM_FRONTS_LIBC_SHELL_H
#define HAKMEM_FRONTS_LIBC_SHELL_H

#include <stdio.h>
#include <sys/wait.h>

#include <string>

namespace shell {

struct Outcome {
    std::string text;   // the output on stdout
    std::string ending; // "exit 0", "signal 6", or "no shell"
};

inline Outcome Run(const std::string &command) {
    FILE *in = popen(command.c_str(), "r");
    if (in == nullptr) {
        return {"", "no shell"};
    }
    Outcome outcome;
    char part[4096];
    size_t length;
    while ((length = fread(part, 1, sizeof part, in)) > 0) {
        outcome.text.append(part, length);
    }
    int status = pclose(in);
    outcome.ending = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                         : "exit " + std::to_string(WEXITSTATUS(status));
    return outcome;
}

} // namespace shell

#endif
