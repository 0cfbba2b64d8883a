// SPDX-License-Identifier: Apache-2.0
// model: which caches have a line of memory, by a directory and the states of MESI, and what an
// access costs.
//
// A core's cache holds every line that the core has touched until another core takes it away: no
// line is evicted for want of room, nothing is fetched ahead, and a store waits for its line. What
// is left is what cores do to each other. A line goes from core to core in the order in which they
// ask for it; readers of a line that nobody waits for do not wait for each other. An access that
// has to wait for other cores' caches is a *transfer*: a *fetch* if the line itself has to come, an
// *upgrade* if the core has a copy and wants the right to write. A line that no cache has is
// *cold*.
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
    uint64_t hold = 5000; // how long a core has a line at least: what it is about to do with it
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

    // When a core that wants to access the line of an address at time `now` can: at once, unless
    // others wait for the line before it. It is to wait till then, and then to make the access.
    uint64_t queue(unsigned core, uintptr_t address, Access access, uint64_t now);

    // The access itself.
    Outcome access(unsigned core, uintptr_t address, Access access, uint64_t now);

    // The memory is a new mapping's, or has been given back: no cache has it.
    void forget(uintptr_t address, size_t size);

  private:
    struct Line {
        uint64_t busy = 0;  // until then the line is on its way to cores,
        uint16_t last = 0;  // of which this is the last
        int16_t owner = -1; // the core that may write; then it is the only sharer
        std::bitset<kMostCores> sharers;
    };
    struct Page {
        Line lines[kPage / kLine];
        bool touched = false;
    };

    Page *page(uintptr_t address);
    static bool hits(const Line &line, unsigned core, Access access) {
        return line.sharers[core] &&
               (access == Access::kRead || line.owner == static_cast<int>(core));
    }
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
