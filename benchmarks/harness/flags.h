// SPDX-License-Identifier: Apache-2.0
// flags: the command line of a driver, over getopt_long. Anything wrong ends the process with one
// line that says why, a usage line, and status 2; --help prints every flag and ends it with 0.
#ifndef HAKMEM_BENCHMARKS_HARNESS_FLAGS_H
#define HAKMEM_BENCHMARKS_HARNESS_FLAGS_H

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

// A decimal number, digits only, within the range.
bool parse_number(const std::string &text, uint64_t least, uint64_t most, uint64_t *out);

// The parts of a comma-separated list; none of an empty text.
std::vector<std::string> split_list(const std::string &text);

// The names of scenarios, whose members have a `name`, as a comma-separated list.
template <class Scenario> std::string names_of(const std::vector<Scenario> &known) {
    std::string names;
    for (const Scenario &scenario : known) {
        names += (names.empty() ? "" : ",") + std::string(scenario.name);
    }
    return names;
}

class Flags {
  public:
    // `positional` names what stands after the flags, as "ITERATIONS SIZE SEED".
    Flags(std::string program, std::string about, std::vector<std::string> positional = {});

    // The value holds the default until parse().
    void number(const char *name, uint64_t least, uint64_t most, uint64_t *value, const char *what);
    void text(const char *name, const char *placeholder, std::string *value, const char *what);
    void toggle(const char *name, bool *value, const char *what);
    // --allocators LIST, for find_allocators().
    void allocators(std::string *value);

    // Returns the positional arguments: as many as were named.
    std::vector<std::string> parse(int argc, char **argv);

    // Of `known`, whose members have a `name`, the scenarios that a comma-separated list names, in
    // its order. fail()s on another name and on an empty list.
    template <class Scenario>
    std::vector<Scenario> choose(const std::string &list,
                                 const std::vector<Scenario> &known) const {
        std::vector<Scenario> chosen;
        for (const std::string &name : split_list(list)) {
            const auto found =
                std::find_if(known.begin(), known.end(),
                             [&name](const Scenario &scenario) { return name == scenario.name; });
            if (found == known.end()) {
                fail("no scenario \"" + name + "\"");
            }
            chosen.push_back(*found);
        }
        if (chosen.empty()) {
            fail("no scenario named");
        }
        return chosen;
    }

    // Makes a directory for results, of which there may be one already; a relative path starts
    // where the person stands who runs the driver. Returns its absolute path, or fail()s.
    std::string make_directory(const std::string &path) const;

    // For what only the driver can find wrong.
    [[noreturn]] void fail(const std::string &why) const;

  private:
    struct Flag {
        const char *name;
        std::string placeholder; // empty: takes no value
        std::string what;
        uint64_t least, most;
        uint64_t *number;
        std::string *text;
        bool *toggle;
    };

    std::string usage() const;

    std::string program_, about_;
    std::vector<std::string> positional_;
    std::vector<Flag> flags_;
};

} // namespace bench

#endif
