// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/coherence/model.h"

#include <algorithm>

namespace coherence {

Model::Page *Model::page(uintptr_t address) {
    const uintptr_t number = address / kPage;
    Recent &recent = recent_[number % (sizeof recent_ / sizeof *recent_)];
    if (recent.page == nullptr || recent.number != number) {
        std::unique_ptr<Page> &page = pages_[number];
        if (page == nullptr) {
            page = std::make_unique<Page>();
        }
        recent = {number, page.get()};
    }
    return recent.page;
}

uint64_t Model::distance(unsigned a, unsigned b) const {
    return a / costs_.cores_of_group == b / costs_.cores_of_group     ? costs_.group
           : a / costs_.cores_of_socket == b / costs_.cores_of_socket ? costs_.socket
                                                                      : costs_.machine;
}

uint64_t Model::nearest(const Line &line, unsigned core) const {
    uint64_t least = costs_.machine;
    for (size_t c = line.sharers._Find_first(); c < kMostCores; c = line.sharers._Find_next(c)) {
        least = std::min(least, distance(core, static_cast<unsigned>(c)));
    }
    return least;
}

uint64_t Model::farthest(const Line &line, unsigned core) const {
    uint64_t most = 0;
    for (size_t c = line.sharers._Find_first(); c < kMostCores; c = line.sharers._Find_next(c)) {
        most = c == core ? most : std::max(most, distance(core, static_cast<unsigned>(c)));
    }
    return most;
}

uint64_t Model::queue(unsigned core, uintptr_t address, Access access, uint64_t now) {
    Line &line = page(address)->lines[address % kPage / kLine];
    if (hits(line, core, access) || line.sharers.none() ||
        (access == Access::kRead && line.busy <= now && line.sharers.count() > 1)) {
        return now;
    }
    uint64_t start = now;
    if (line.last != core && line.busy + costs_.hold > now) {
        start = std::max(now, line.busy + costs_.hold);
    }
    line.busy = std::max(start, line.busy) + distance(line.last, core);
    line.last = static_cast<uint16_t>(core);
    return start;
}

Outcome Model::access(unsigned core, uintptr_t address, Access access, uint64_t now) {
    Page *page = this->page(address);
    Line &line = page->lines[address % kPage / kLine];
    const bool writes = access != Access::kRead;
    Outcome outcome = {now + costs_.hit, false, false, false, 0};
    if (access == Access::kAtomic) {
        outcome.done += costs_.atomic;
    }
    if (!page->touched) {
        page->touched = true;
        outcome.done += costs_.fault;
    }
    if (hits(line, core, access)) {
        return outcome;
    }
    const bool has = line.sharers[core];
    if (line.sharers.none()) {
        outcome.cold = true;
        outcome.done += costs_.cold;
        line.owner = static_cast<int16_t>(core); // alone: the first write need not ask
        line.last = static_cast<uint16_t>(core);
    } else if (!writes) {
        outcome.fetch = true;
        outcome.done += nearest(line, core);
        line.owner = -1;
    } else {
        outcome.upgrade = has;
        outcome.fetch = !has;
        outcome.done += farthest(line, core);
        outcome.invalidations = static_cast<unsigned>(line.sharers.count()) - (has ? 1 : 0);
        line.sharers.reset();
        line.owner = static_cast<int16_t>(core);
    }
    line.sharers[core] = true;
    return outcome;
}

void Model::forget(uintptr_t address, size_t size) {
    const uintptr_t first = address / kPage;
    const uintptr_t end = (address + size + kPage - 1) / kPage;
    if (end - first > pages_.size()) {
        for (auto at = pages_.begin(); at != pages_.end();) {
            at = at->first >= first && at->first < end ? pages_.erase(at) : std::next(at);
        }
    } else {
        for (uintptr_t number = first; number < end; number++) {
            pages_.erase(number);
        }
    }
    for (Recent &recent : recent_) {
        if (recent.number >= first && recent.number < end) {
            recent = {};
        }
    }
}

} // namespace coherence
