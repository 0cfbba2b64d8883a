// SPDX-License-Identifier: Apache-2.0
// model: which caches have a line of memory, by a directory and the states of MESI, and what an
// access costs.
//
// A core's cache holds every line that the core has touched until another core takes it away: no
// line is evicted for want of room, nothing is fetched ahead, and a store waits for its line. What
// is left is what cores do to each other. An access that has to wait for other cores' caches is a
// *transfer*: a *fetch* if the line itself has to come, an *upgrade* if the core has a copy and
// wants the right to write. A line that no cache has is *cold*.
//
// Times are in picoseconds. Not thread-safe: the machine makes one access at a time.
#ifndef HAKMEM_BENCHMARKS_COHERENCE_MODEL_H
#define HAKMEM_BENCHMARKS_COHERENCE_MODEL_H

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace coherence {

constexpr unsigned kMostCores = 256;
constexpr uintptr_t kLine = 64;
constexpr uintptr_t kPage = 4096;

// What accesses take, and where the cores stand. docs/many_cores.md says where the figures are
// from.
struct Costs {
    uint64_t hit = 500;        // an access to a line at hand, and the instructions around it
    uint64_t atomic = 2500;    // more, if the access is a locked instruction
    uint64_t cold = 10000;     // a line of a page that the kernel has just cleared
    uint64_t fault = 500000;   // the first access to a page
    uint64_t group = 23000;    // a line from a core of the same eight
    uint64_t socket = 107000;  // from another core of the same socket
    uint64_t machine = 197000; // from a core of the other socket
    unsigned cores_of_group = 8;
    unsigned cores_of_socket = kMostCores;
};

enum class Access { kRead, kWrite, kAtomic };

struct Outcome {
    uint64_t done;          // when the core goes on
    bool fetch, upgrade;    // at most one of them
    bool cold;              //
    unsigned invalidations; // copies that other cores lost
    bool transfer() const { return fetch || upgrade; }
};

class Model {
  public:
    explicit Model(const Costs &costs) : costs_(costs) {}

    // An access at time `now` of a core to the line of an address. Accesses that have to wait for
    // one line come after one another: a line moves to one core at a time.
    Outcome access(unsigned core, uintptr_t address, Access access, uint64_t now);

    // The memory is a new mapping's, or has been given back: no cache has it.
    void forget(uintptr_t address, size_t size);

  private:
    struct Line {
        uint64_t busy = 0; // until then the line is on its way to a core
        std::bitset<kMostCores> sharers;
        int16_t owner = -1; // the core that may write; then it is the only sharer
    };
    struct Page {
        Line lines[kPage / kLine];
        bool touched = false;
    };

    Page *page(uintptr_t address);
    uint64_t distance(unsigned a, unsigned b) const;
    uint64_t nearest(const Line &line, unsigned core) const;
    uint64_t farthest(const Line &line, unsigned core) const;

    Costs costs_;
    std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
    struct Recent {
        uintptr_t number = 0;
        Page *page = nullptr;
    };
    Recent recent_[4096];
};

} // namespace coherence

#endif
