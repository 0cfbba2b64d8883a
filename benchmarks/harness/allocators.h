// SPDX-License-Identifier: Apache-2.0
// allocators: what can be preloaded, by name, and the files of this build.
#ifndef HAKMEM_BENCHMARKS_HARNESS_ALLOCATORS_H
#define HAKMEM_BENCHMARKS_HARNESS_ALLOCATORS_H

#include <cstddef>
#include <string>
#include <vector>

namespace bench {

class Flags;

struct Allocator {
    std::string name;                     // as tables show it
    std::string preload;                  // empty: what the program has by itself
    std::string flavour;                  // what hak_flavour() must say; empty: not known
    std::vector<std::string> environment; // NAME=VALUE to set
};

// The path of a file of this build, as "benchmarks/random_mixed_worker", wherever the driver was
// started from; empty if there is none.
std::string built_file(const std::string &path);

// Makes of TEXT an allocator:
//   system            the program's own malloc
//   hakmem_c23 ...    a flavour of this build
//   mimalloc ...      a Debian package's library, if it is installed
//   /path/lib.so      any shared library; named by its file name without "lib" and ".so"
// and after any of these, +NAME=VALUE once or more sets an environment variable.
// Returns an empty text, or why not.
std::string find_allocator(const std::string &text, Allocator *out);

// The same for a comma-separated list, which may hold "rivals" for all of Debian's.
std::string find_allocators(const std::string &list, std::vector<Allocator> *out);

// Returns where in the list the allocator is that `text` names, either as find_allocator() is told
// or as tables show it. Returns the list's size if the allocator is not there.
size_t place_of(const std::vector<Allocator> &allocators, const std::string &text);

// The same as find_allocators() for a driver, which ends with a usage line where the list is wrong.
std::vector<Allocator> chosen_allocators(const Flags &flags, const std::string &list);

// A Markdown list of the allocators and what is preloaded for each.
std::string allocators_text(const std::vector<Allocator> &allocators);

// The names of the flavours built, of the system's malloc and of Debian's libraries on this
// machine.
std::vector<std::string> known_flavours();
std::vector<std::string> known_rivals();

} // namespace bench

#endif
