// SPDX-License-Identifier: Apache-2.0
// Model checking of the page arena: every interleaving of threads that claim, release, set aside
// and purge runs of a few slabs, and every fork in between.
//
// The model runs the arena's own source. Its window has two groups, and in each test two words of
// 64 slabs of them take part: beside each other, or on both sides of the groups' border. All other
// slabs are in use for ever. Steps of the model, which note what was asked, take the place of the
// kernel and of the run cache (which has a model of its own).
#include "boxes/page_arena/page_arena.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/dirty_ceiling/dirty_ceiling.h"
#include "boxes/page_arena/page_arena_model.h"
#include "boxes/run_cache/run_cache.h"
#include "boxes/settings/settings.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

int64_t settings_values[SETTING_COUNT]; // no limit, no huge pages, no background thread

namespace {

using model::Op;
using model::Program;

constexpr size_t kGroupWords = ARENA_GROUP_SLABS / 64;
constexpr size_t kWords = 2; // words of slabs that take part
using Mask = std::array<uint64_t, kWords>;

enum Kind { CLAIM, CLAIM_AT, RELEASE, RELEASE_CLEAN, ASIDE, REUSE, PURGE, PURGE_HIGHEST };

Op claim(unsigned slabs) {
    return {CLAIM, slabs};
}
// The model's slabs are numbered 0..63 in its first word, and 64..127 in its second.
Op claim_at(unsigned from, unsigned slabs) {
    return {CLAIM_AT, from, slabs};
}
const Op kRelease = {RELEASE};            // the thread's lowest run, after it was written to
const Op kReleaseClean = {RELEASE_CLEAN}; // the thread's lowest run, not written to
const Op kSetAside = {ASIDE};
Op reuse(unsigned slabs) {
    return {REUSE, slabs};
}
const Op kPurge = {PURGE};
const Op kPurgeHighest = {PURGE_HIGHEST};

char *window_base() {
    static char *const base = [] {
        void *at = mmap(nullptr, 2 * size_t{ARENA_SUPERSLAB}, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        EXPECT_NE(at, MAP_FAILED);
        return reinterpret_cast<char *>(
            hak_round_up(reinterpret_cast<uintptr_t>(at), ARENA_SUPERSLAB));
    }();
    return base;
}

page_arena_window the_window() {
    char *base = window_base();
    size_t slabs = MODEL_GROUPS * ARENA_GROUP_SLABS;
    auto *groups = reinterpret_cast<page_arena_group *>(base + hak_round_up(slabs, HAK_PAGE));
    size_t bytes = hak_round_up(MODEL_GROUPS * sizeof(page_arena_group), HAK_PAGE);
    auto *regions = reinterpret_cast<page_arena_region *>(reinterpret_cast<char *>(groups) + bytes);
    return {base, slabs, groups, regions, base + (slabs << ARENA_SLAB_SHIFT)};
}

class Arena : public model::Checker {
  public:
    // Words `first` and `second` of the window take part, and if `charged` rights do, too. The
    // window has reserved `groups` groups.
    Arena(std::vector<Program> programs, size_t first, size_t second, bool charged = false,
          size_t groups = MODEL_GROUPS)
        : Checker(std::move(programs)), words_{first, second}, charged_(charged) {
        constexpr size_t kControl = size_t{1} << 18;
        memset(window_base(), 0, kControl);
        vars_ = model_start(window_base(), uint64_t{1} << first | uint64_t{1} << second, charged,
                            groups);
        cells(vars_.top, sizeof *vars_.top, 1, "top");
        cells(vars_.lowest, sizeof *vars_.lowest, 1, "lowest");
        cells(vars_.counts, sizeof *vars_.counts, 1, "counts");
        page_arena_window window = the_window();
        for (size_t w : words_) {
            page_arena_group &group = window.groups[w / kGroupWords];
            std::string of = " word " + std::to_string(w);
            cells(&group.avail[w % kGroupWords], 8, 1, "avail" + of);
            cells(&group.dirty[w % kGroupWords], 8, 1, "dirty" + of);
        }
        for (size_t g = 0; g < MODEL_GROUPS; g++) {
            page_arena_group &group = window.groups[g];
            cells(&group.meta_used, 8, 1, "metadata used in group " + std::to_string(g));
            ignore(&group.avail, sizeof group.avail, 0); // in use for ever
            ignore(&group.dirty, sizeof group.dirty, 0);
            ignore(&group.freed_at, sizeof group.freed_at, 0);
            if (charged) {
                cells(&group.committed, 8, 1, "committed in group " + std::to_string(g));
            } else {
                ignore(&group.committed, 8, ~uint64_t{0});
            }
            ignore(&group.lost, 8, 0);
            ignore(&group.huge, 8, 0);
        }
        for (page_arena_runs *runs : {&window.regions->free, &window.regions->dirty}) {
            std::string of = runs == &window.regions->free ? "free" : "dirty";
            cells(&runs->all, 8, 1, "region's runs, " + of);
            cells(&runs->group, 8, MODEL_GROUPS, "group's runs, " + of);
            ignore(&runs->group, sizeof runs->group, 0);
        }
        cells(&window.regions->meta, 8, 1, "region's metadata");
        static Arena *arena;
        arena = this;
        model_ignored([](volatile void *at, size_t bytes, uint64_t value) {
            arena->ignore(at, bytes, value);
        });
        settings_values[SETTING_DECAY_MS] = -1; // a release does not purge
        for (int64_t &value : settings_values) {
            ignore(&value, sizeof value, static_cast<uint64_t>(value));
        }
        data(&shared_, sizeof shared_);
    }

    static Arena &current() { return static_cast<Arena &>(Checker::current()); }

    // Slabs that are free at the start, and have no pages and no rights.
    void free_at_start(unsigned from, unsigned slabs) {
        before(0, {kMakeFree, from, slabs});
        for (unsigned i = from; i < from + slabs; i++) {
            all_[i / 64] |= uint64_t{1} << i % 64;
        }
    }
    // Slabs that thread t has at the start.
    void give(size_t t, unsigned from, unsigned slabs) { before(t, claim_at(from, slabs)); }

    // Calls that the arena makes.
    run_cache_run put_aside(size_t from, size_t slabs) {
        uint64_t out = step("sets a run aside, and gets", [=] {
            for (Run &run : shared_.aside) {
                if (run.slabs == 0) {
                    run = {from, slabs};
                    return uint64_t{0};
                }
            }
            Run old = shared_.aside[0];
            shared_.aside[0] = {from, slabs};
            return old.from << 8 | old.slabs;
        });
        return {out >> 8, out & 0xff};
    }
    run_cache_run take_aside(size_t slabs) { // 0: any
        uint64_t out = step("takes a run that is set aside:", [=] {
            for (Run &run : shared_.aside) {
                if (run.slabs != 0 && (slabs == 0 || run.slabs == slabs)) {
                    Run taken = run;
                    run = {0, 0};
                    return taken.from << 8 | taken.slabs;
                }
            }
            return uint64_t{0};
        });
        return {out >> 8, out & 0xff};
    }

    // The kernel is given pages back: of slabs, or of metadata.
    void purge(const void *at, size_t bytes) {
        page_arena_window window = the_window();
        size_t slab = page_arena_slab_of(&window, at);
        if (slab >= window.slabs) {
            size_t superslab = static_cast<size_t>(static_cast<const char *>(at) - window.meta) /
                               ARENA_SUPERSLAB_META;
            purge_meta(superslab * ARENA_SUPERSLAB_SLABS);
            return;
        }
        Mask mask = mask_of(slab, bytes >> ARENA_SLAB_SHIFT);
        step("the kernel takes pages back from slab", [=] {
            for (const Holder &holder : shared_.holders) {
                if (meet(holder.held, mask)) {
                    note("the pages of a slab in use were given back");
                }
            }
            if (meet(avail(), mask)) {
                note("the pages of slabs that anyone can claim were given back");
            }
            for (size_t w = 0; w < kWords; w++) {
                shared_.pages[w] &= ~mask[w];
            }
            return uint64_t{slab};
        });
    }

    // The kernel gives or takes rights.
    void change_rights(const void *at, size_t bytes, bool give) {
        page_arena_window window = the_window();
        size_t slab = page_arena_slab_of(&window, at);
        Mask mask = mask_of(slab, bytes >> ARENA_SLAB_SHIFT);
        step(give ? "the kernel gives rights from slab" : "the kernel takes rights from slab", [=] {
            for (size_t w = 0; w < kWords; w++) {
                uint64_t superslabs = mask[w] != 0 ? superslabs_of(w, mask[w]) : 0;
                shared_.rights = give ? shared_.rights | superslabs : shared_.rights & ~superslabs;
            }
            for (const Holder &holder : shared_.holders) {
                if (!give && meet(holder.held, mask)) {
                    note("a slab in use loses its rights");
                }
            }
            return uint64_t{slab};
        });
    }

  protected:
    static constexpr int kMakeFree = 100;

    void perform(const Op &op) override {
        Holder &mine = shared_.holders[running()];
        bool zero = false;
        switch (op.kind) {
        case CLAIM: {
            size_t from = page_arena_claim(op.a, ARENA_SLAB, &zero);
            if (from != ARENA_NONE) {
                own(from, op.a, zero);
            }
            mine.got = from != ARENA_NONE;
            break;
        }
        case CLAIM_AT: {
            size_t from = slab_of(op.a);
            mine.got = page_arena_claim_at(from, op.b, &zero);
            if (mine.got != 0) {
                own(from, op.b, zero);
            }
            break;
        }
        case RELEASE:
        case RELEASE_CLEAN:
        case ASIDE: {
            if (first()) {
                take_lowest_run(mine, op.kind != RELEASE_CLEAN);
            }
            if (mine.giving.slabs == 0) {
                break;
            }
            if (op.kind == ASIDE) {
                page_arena_set_aside(mine.giving.from, mine.giving.slabs, hak_thread_slot());
            } else {
                page_arena_release(mine.giving.from, mine.giving.slabs, op.kind == RELEASE);
            }
            mine.giving = {0, 0};
            break;
        }
        case REUSE: {
            size_t from = page_arena_reuse(op.a);
            if (from != ARENA_NONE) {
                own(from, op.a, false);
            }
            break;
        }
        case PURGE: {
            size_t cursor = 0;
            page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
            break;
        }
        case PURGE_HIGHEST:
            page_arena_purge_highest(64);
            break;
        default:
            model_make_free(slab_of(op.a), op.b);
            break;
        }
    }

    std::string name_of(const Op &op) const override {
        const char *const names[] = {"claims ",    "claims at ", "releases", "releases, clean,",
                                     "sets aside", "reuses ",    "purges",   "purges from above"};
        bool counts = op.kind == CLAIM || op.kind == CLAIM_AT || op.kind == REUSE;
        return names[op.kind] + (counts ? std::to_string(op.a) : "");
    }

    void threads_are_gone() override {
        for (size_t t = 0; t < shared_.holders.size(); t++) {
            if (t != running()) { // The slabs that such a thread holds stay in use for ever.
                shared_.holders[t].giving = {0, 0};
                shared_.holders[t].got = 0;
            }
        }
    }

    void at_end(bool is_child) override {
        check_rest(is_child);
        if (is_child || faulty()) {
            return;
        }
        // Whatever the summaries say, the longest free run can be claimed.
        for (bool released : {false, true}) {
            for (size_t t = 0; released && t < threads(); t++) {
                for (unsigned i = 0; i < 4; i++) {
                    run_alone(t, kRelease);
                }
            }
            if (released) {
                run_alone(0, kPurge);
                check_rest(false);
                if (!faulty() && avail() != all_) {
                    note("a slab is lost");
                }
            }
            size_t longest = longest_run(avail());
            if (longest > 0 && !faulty()) {
                run_alone(0, claim(static_cast<unsigned>(longest)));
                if (!faulty() && shared_.holders[0].got == 0) {
                    note("the longest free run, of " + std::to_string(longest) +
                         " slabs, is not found");
                }
                run_alone(0, kRelease);
            }
        }
    }

    std::string describe() const override {
        std::string text;
        char line[160];
        for (size_t t = 0; t < threads(); t++) {
            const Mask &held = shared_.holders[t].held;
            snprintf(line, sizeof line, "thread %zu holds %#llx, %#llx\n", t,
                     static_cast<unsigned long long>(held[0]),
                     static_cast<unsigned long long>(held[1]));
            text += line;
        }
        snprintf(line, sizeof line, "with pages: %#llx, %#llx; set aside: %llu slabs, %llu slabs\n",
                 static_cast<unsigned long long>(shared_.pages[0]),
                 static_cast<unsigned long long>(shared_.pages[1]),
                 static_cast<unsigned long long>(shared_.aside[0].slabs),
                 static_cast<unsigned long long>(shared_.aside[1].slabs));
        return text + line;
    }

  private:
    struct Run {
        uint64_t from, slabs;
    };
    struct Holder {
        Mask held = {};
        Run giving = {0, 0}; // the thread's until the step that sets their bits
        uint64_t got = 0;    // 1: the thread's last claim did not fail
    };

    size_t slab_of(size_t number) const { return words_[number / 64] * 64 + number % 64; }

    Mask mask_of(size_t from, size_t slabs) const {
        Mask mask = {};
        for (size_t slab = from; slab < from + slabs; slab++) {
            for (size_t w = 0; w < kWords; w++) {
                mask[w] |= words_[w] == slab / 64 ? uint64_t{1} << slab % 64 : 0;
            }
        }
        return mask;
    }

    static bool meet(const Mask &a, const Mask &b) {
        return (a[0] & b[0]) != 0 || (a[1] & b[1]) != 0;
    }

    static uint64_t now(const atomic_bitmap_word &word) { return std::atomic_load(&word); }
    Mask avail() const {
        Mask mask;
        for (size_t w = 0; w < kWords; w++) {
            page_arena_window window = the_window();
            mask[w] = now(window.groups[words_[w] / kGroupWords].avail[words_[w] % kGroupWords]);
        }
        return mask;
    }
    Mask dirty() const {
        Mask mask;
        for (size_t w = 0; w < kWords; w++) {
            page_arena_window window = the_window();
            mask[w] = now(window.groups[words_[w] / kGroupWords].dirty[words_[w] % kGroupWords]);
        }
        return mask;
    }

    void own(size_t from, size_t slabs, bool zero) {
        Mask mask = mask_of(from, slabs);
        if (static_cast<size_t>(__builtin_popcountll(mask[0]) + __builtin_popcountll(mask[1])) !=
            slabs) {
            note("slabs that were never free");
        }
        for (const Holder &holder : shared_.holders) {
            if (meet(holder.held, mask)) {
                note("a slab is owned twice");
            }
        }
        for (const Run &run : shared_.aside) {
            if (meet(mask_of(run.from, run.slabs), mask)) {
                note("a slab that is set aside is owned");
            }
        }
        if (meet(avail(), mask)) {
            note("a slab that is owned can be claimed");
        }
        if (zero && meet(shared_.pages, mask)) {
            note("slabs with something in them are said to be zero");
        }
        Holder &mine = shared_.holders[running()];
        for (size_t w = 0; w < kWords; w++) {
            mine.held[w] |= mask[w];
            uint64_t superslabs = mask[w] != 0 ? superslabs_of(w, mask[w]) : 0;
            shared_.metas |= superslabs;
            if (charged_ && (superslabs & ~shared_.rights) != 0) {
                note("a slab without rights");
            }
        }
        check_counts();
    }

    // Bits for the four SuperSlabs of the two words.
    static uint64_t superslabs_of(size_t w, uint64_t mask) {
        return ((mask & 0xffffffff) != 0 ? uint64_t{1} << w * 2 : 0) |
               (mask >> 32 != 0 ? uint64_t{2} << w * 2 : 0);
    }

    // The lowest run of the thread's slabs changes from its hands into those of the call.
    void take_lowest_run(Holder &mine, bool written) {
        mine.giving = {0, 0};
        for (size_t i = 0; i < kWords * 64; i++) {
            bool has = (mine.held[i / 64] >> i % 64 & 1) != 0;
            bool goes_on =
                mine.giving.slabs == 0 || mine.giving.from + mine.giving.slabs == slab_of(i);
            if (has && goes_on) {
                mine.giving.from = mine.giving.slabs == 0 ? slab_of(i) : mine.giving.from;
                mine.giving.slabs++;
                mine.held[i / 64] &= ~(uint64_t{1} << i % 64);
                shared_.pages[i / 64] |= written ? uint64_t{1} << i % 64 : 0;
            } else if (mine.giving.slabs != 0) {
                break;
            }
        }
    }

    void purge_meta(size_t first_slab) {
        step("the kernel takes metadata back of slab", [=] {
            Mask mask = mask_of(first_slab, ARENA_SUPERSLAB_SLABS);
            for (const Holder &holder : shared_.holders) {
                if (meet(holder.held, mask)) {
                    note("metadata of a slab in use was given back");
                }
            }
            for (const Run &run : shared_.aside) {
                if (meet(mask_of(run.from, run.slabs), mask)) {
                    note("metadata of a slab that is set aside was given back");
                }
            }
            for (size_t w = 0; w < kWords; w++) {
                shared_.metas &= mask[w] != 0 ? ~superslabs_of(w, mask[w]) : ~uint64_t{0};
            }
            return uint64_t{first_slab};
        });
    }

    void check_counts() {
        constexpr uint64_t kNegative = uint64_t{1} << 31;
        if ((*vars_.counts & kNegative) != 0 || (*vars_.counts >> 32 & kNegative) != 0) {
            note("a count is below 0");
        }
    }

    bool adjacent() const { return words_[1] == words_[0] + 1; }

    size_t longest_run(const Mask &mask) const {
        size_t longest = 0;
        size_t length = 0;
        for (size_t i = 0; i < kWords * 64; i++) {
            length = i == 64 && !adjacent() ? 0 : length;
            length = (mask[i / 64] >> i % 64 & 1) != 0 ? length + 1 : 0;
            longest = hak_max(longest, length);
        }
        return longest;
    }

    // The invariants that hold whenever no thread is in the middle of a call.
    void check_rest(bool is_child) {
        Mask in = avail();
        Mask with_pages = dirty();
        size_t count = 0;
        size_t in_use = shared_.aside[0].slabs + shared_.aside[1].slabs;
        for (size_t w = 0; w < kWords; w++) {
            uint64_t out = 0;
            for (const Holder &holder : shared_.holders) {
                out |= holder.held[w];
            }
            if ((in[w] & out) != 0) {
                note("a slab is both free and in use");
            }
            if ((in[w] & shared_.pages[w] & ~with_pages[w]) != 0) {
                note("a free slab has pages and is not dirty");
            }
            if (out != 0 && *vars_.top <= words_[w] * 64) {
                note("a slab above `top` is in use");
            }
            if ((in[w] & with_pages[w]) != 0 && *vars_.top <= words_[w] * 64) {
                note("a dirty slab above `top`");
            }
            in_use += static_cast<size_t>(__builtin_popcountll(out));
            count += static_cast<size_t>(__builtin_popcountll(in[w] & with_pages[w]));
        }
        if (is_child) {
            return; // Threads that the child lacks were perhaps about to change what follows.
        }
        for (size_t w = 0; w < kWords; w++) {
            if (in[w] != 0 && *vars_.lowest > words_[w]) {
                note("a free slab below `lowest`");
            }
            for (unsigned half = 0; half < 2; half++) {
                size_t superslab = words_[w] * 2 + half;
                size_t group = superslab / 64;
                bool used = (now(the_window().groups[group].meta_used) >> superslab % 64 & 1) != 0;
                bool said = (now(the_window().regions->meta) >> group & 1) != 0;
                if ((shared_.metas >> (w * 2 + half) & 1) != 0 && (!used || !said)) {
                    note("metadata in use that no purge will look at");
                }
            }
        }
        if (*vars_.counts >> 32 != count) {
            note("the count of dirty slabs is " + std::to_string(*vars_.counts >> 32) + ", not " +
                 std::to_string(count));
        }
        if (static_cast<uint32_t>(*vars_.counts) != in_use) {
            note("the count of slabs in use is " +
                 std::to_string(static_cast<uint32_t>(*vars_.counts)) + ", not " +
                 std::to_string(in_use));
        }
        for (bool of_dirty : {false, true}) {
            Mask free = in;
            for (size_t w = 0; w < kWords; w++) {
                free[w] &= of_dirty ? with_pages[w] : ~uint64_t{0};
            }
            check_bounds(free, of_dirty);
        }
    }

    // No summary is below the true length of its run.
    void check_bounds(const Mask &free, bool of_dirty) {
        std::string kind = of_dirty ? " dirty" : " free";
        size_t region = 0;
        for (size_t g = 0; g < MODEL_GROUPS; g++) {
            Mask here = free;
            size_t at_start = 0;
            size_t at_end = 0;
            for (size_t w = 0; w < kWords; w++) {
                here[w] = words_[w] / kGroupWords == g ? free[w] : 0;
                if (words_[w] == g * kGroupWords) {
                    at_start = here[w] == ~uint64_t{0} ? 64 : __builtin_ctzll(~here[w]);
                }
                if (words_[w] == (g + 1) * kGroupWords - 1) {
                    at_end = here[w] == ~uint64_t{0} ? 64 : __builtin_clzll(~here[w]);
                }
            }
            model_bounds bounds = model_bounds_of(g, of_dirty);
            if (bounds.longest < longest_run(here) || bounds.first < at_start ||
                bounds.last < at_end) {
                note("the summary of group " + std::to_string(g) + " hides a run of" + kind +
                     " slabs");
            }
            region = bounds.region;
        }
        if (region < longest_run(free)) {
            note("the summary of the region hides a run of" + kind + " slabs");
        }
    }

    const std::array<size_t, kWords> words_;
    const bool charged_;
    model_arena vars_;
    Mask all_ = {};
    struct {
        std::array<Holder, 3> holders;
        std::array<Run, 2> aside;
        Mask pages;      // slabs with something in them
        uint64_t metas;  // SuperSlabs whose metadata has something in it
        uint64_t rights; // and those that can be written
    } shared_ = {};
};

} // namespace

// Calls that the arena makes.
run_cache_run run_cache_put(unsigned, size_t from, size_t slabs, size_t) {
    return Arena::current().put_aside(from, slabs);
}
run_cache_run run_cache_evict(unsigned, size_t) {
    return {0, 0};
}
unsigned run_cache_lines() {
    return 1;
}
size_t run_cache_take(size_t slabs) {
    run_cache_run run = Arena::current().take_aside(slabs);
    return run.slabs == 0 ? RUN_CACHE_NONE : run.from;
}
run_cache_run run_cache_take_any(unsigned *cursor) {
    return (*cursor)++ < 2 ? Arena::current().take_aside(0) : run_cache_run{0, 0};
}
run_cache_run run_cache_take_own(unsigned *cursor) {
    return run_cache_take_any(cursor);
}
size_t run_cache_slabs() {
    return 0;
}
size_t dirty_ceiling_surplus(size_t, size_t, size_t, uint32_t, uint32_t) {
    return 0;
}
void dirty_ceiling_count_given(size_t, size_t, size_t) {}
void dirty_ceiling_count_claimed(size_t, size_t) {}
os_result os_reserve(void *, size_t, void **) {
    return OS_NO_MEMORY;
}
os_result os_map(void *, size_t, void **) {
    return OS_NO_MEMORY;
}
os_result os_commit(void *at, size_t size) {
    Arena::current().change_rights(at, size, true);
    return OS_OK;
}
bool os_commits() {
    return true;
}
void os_before_sandbox(void (*)()) {}
os_result os_commit_alone(void *at, size_t size) {
    return os_commit(at, size);
}
os_result os_decommit(void *at, size_t size) {
    Arena::current().change_rights(at, size, false);
    return OS_OK;
}
size_t os_read_file(const char *, char *, size_t) {
    return 0;
}
bool os_purges_in_place() {
    return true;
}

os_result os_purge(void *at, size_t size) {
    Arena::current().purge(at, size);
    return OS_OK;
}
os_result os_refresh(void *, size_t) {
    return OS_NO_MEMORY;
}
os_result os_move(void *, void *, size_t) {
    return OS_NO_MEMORY;
}
void os_release(void *, size_t) {}
os_result os_unmap(void *, size_t) {
    return OS_NO_MEMORY;
}
void os_huge_pages(void *, size_t, bool) {}
bool os_in_memory(const void *, size_t, unsigned char *) {
    return false;
}
bool os_is_absent(const void *) {
    return false;
}
size_t os_address_limit() {
    return SIZE_MAX;
}
size_t os_data_limit() {
    return SIZE_MAX;
}
size_t os_most_mappings() {
    return 0;
}
size_t os_physical_memory() {
    return 0;
}
uint64_t os_random() {
    return 0;
}
uint64_t os_now_ms() {
    return 0;
}
void diag_broken(const char *where, const char *what) {
    Arena::current().fail(std::string("broken in ") + where + ": " + what);
}

namespace {

void expect_sound(Arena &arena, size_t least_states) {
    ASSERT_TRUE(arena.check()) << arena.report();
    EXPECT_GE(arena.states(), least_states);
    EXPECT_GE(arena.ends(), 1u);
    printf("%zu states, %zu ends, %zu forks\n", arena.states(), arena.ends(), arena.children());
}

// Searches named DISABLED_ have millions of states: page_arena_model_long_test runs them.

// Two words beside each other in a group, and the last and the first of two groups.
constexpr size_t kFirst = 4;
constexpr size_t kBorder = kGroupWords - 1;

TEST(PageArenaModel, TwoClaimAndReleaseOneSlab) {
    Arena arena({{claim(1), kRelease}, {claim(1), kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 1);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, TwoReleaseWhileAnotherClaims) {
    Arena arena({{kRelease}, {kRelease}, {claim(1)}}, kFirst, kFirst + 1);
    arena.free_at_start(62, 4);
    arena.give(0, 62, 2);
    arena.give(1, 64, 2);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, OneReleasesWhereAnotherSearches) {
    Arena arena({{kRelease}, {claim(1), claim(1)}}, kFirst, kFirst + 1);
    arena.free_at_start(5, 1);
    arena.free_at_start(70, 1);
    arena.give(0, 5, 1);
    expect_sound(arena, 1000);
}

// A search that raises `lowest` passes slabs that are released.
TEST(PageArenaModel, TheFirstWordIsEmptiedAndFilled) {
    Arena arena({{kRelease}, {claim(1), kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(5, 1);
    arena.free_at_start(70, 2);
    arena.give(0, 5, 1);
    expect_sound(arena, 1000);
}

// A run over two words is claimed word by word, and put back if the second word cannot be claimed.
TEST(PageArenaModel, ARunOverTwoWordsAndItsSecondHalf) {
    Arena arena({{claim(2)}, {claim_at(64, 1)}}, kFirst, kFirst + 1);
    arena.free_at_start(63, 2);
    expect_sound(arena, 100);
}

TEST(PageArenaModel, ARunOverTwoWordsAndTwoSingleSlabs) {
    Arena arena({{claim(2)}, {claim(1), kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(63, 2);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, TwoRunsOverTwoWords) {
    Arena arena({{claim(2), kRelease}, {claim(3)}}, kFirst, kFirst + 1);
    arena.free_at_start(62, 4);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, ARunOverTwoGroupsAndTwoSingleSlabs) {
    Arena arena({{claim(2)}, {claim(1), kRelease}}, kBorder, kBorder + 1);
    arena.free_at_start(63, 2);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, ARunOverTwoGroupsIsReleasedWhileOthersSearch) {
    Arena arena({{kRelease}, {claim(2)}}, kBorder, kBorder + 1);
    arena.free_at_start(62, 4);
    arena.give(0, 62, 4);
    expect_sound(arena, 500);
}

TEST(PageArenaModel, DISABLED_ARunOverTwoGroupsIsReleasedInPartsWhileOneSearches) {
    Arena arena({{kRelease}, {kRelease}, {claim(2)}}, kBorder, kBorder + 1);
    arena.free_at_start(63, 2);
    arena.give(0, 63, 1);
    arena.give(1, 64, 1);
    expect_sound(arena, 1000);
}

// A search and its survey miss a slab that is put back after they passed it.
TEST(PageArenaModel, ARunOverTwoWordsIsPutBackWhileOneSearches) {
    Arena arena({{claim_at(63, 2)}, {claim_at(64, 1), claim(1)}}, kFirst, kFirst + 1);
    arena.free_at_start(63, 2);
    expect_sound(arena, 200);
}

TEST(PageArenaModel, ADirtyRunOverTwoWordsIsPutBackWhileOneSearches) {
    Arena arena({{claim_at(63, 2)}, {claim_at(64, 1), claim(1)}}, kFirst, kFirst + 1);
    arena.free_at_start(63, 2);
    arena.give(0, 63, 2);
    arena.before(0, kRelease);
    expect_sound(arena, 200);
}

// A survey that misses a release, the release, and another survey that sets the mark again.
TEST(PageArenaModel, TwoSurveysWithAReleaseInBetween) {
    Arena arena({{claim(2)}, {kRelease, claim(3)}}, kFirst, kFirst + 1);
    arena.free_at_start(5, 2);
    arena.give(1, 6, 1);
    expect_sound(arena, 1000);
}

// A heap of one group has no group to pass.
TEST(PageArenaModel, TwoClaimAndReleaseInTheOnlyGroup) {
    Arena arena({{claim(1), kRelease}, {claim(1), kRelease}}, kFirst, kFirst + 1, false, 1);
    arena.free_at_start(3, 1);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, ARunOverTwoWordsAndTwoSingleSlabsInTheOnlyGroup) {
    Arena arena({{claim(2)}, {claim(1), kRelease}}, kFirst, kFirst + 1, false, 1);
    arena.free_at_start(63, 2);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, TwoSurveysWithAReleaseInBetweenInTheOnlyGroup) {
    Arena arena({{claim(2)}, {kRelease, claim(3)}}, kFirst, kFirst + 1, false, 1);
    arena.free_at_start(5, 2);
    arena.give(1, 6, 1);
    expect_sound(arena, 1000);
}

// Dirty slabs are looked for first, by summaries of their own.
TEST(PageArenaModel, DirtyAndCleanSlabs) {
    Arena arena({{claim(1), kRelease}, {claim(2)}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 4);
    arena.give(0, 5, 1);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, WhatWasDirtyAndIsReleasedCleanIsDirty) {
    Arena arena({{claim(1), kReleaseClean}, {claim(1)}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 2);
    arena.give(0, 4, 1);
    arena.before(0, kRelease);
    expect_sound(arena, 500);
}

TEST(PageArenaModel, PurgeAndClaim) {
    Arena arena({{kPurge}, {claim(1), kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 3);
    arena.give(0, 3, 2);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, PurgeAndRelease) {
    Arena arena({{kPurge}, {kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 3);
    arena.give(0, 3, 1);
    arena.give(1, 4, 1);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, DISABLED_TwoPurges) {
    Arena arena({{kPurge}, {kPurge}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 3);
    arena.give(0, 3, 2);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, PurgeFromAboveAndClaim) {
    Arena arena({{kPurgeHighest}, {claim(1), kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 3);
    arena.give(0, 3, 2);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, PurgeFromAboveAndFromBelow) {
    Arena arena({{kPurgeHighest}, {kPurge}}, kBorder, kBorder + 1);
    arena.free_at_start(62, 4);
    arena.give(0, 62, 4);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, WhatIsSetAsideIsReusedOrReleased) {
    Arena arena({{kSetAside, reuse(1)}, {claim(1)}, {reuse(1)}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 2);
    arena.give(0, 3, 1);
    expect_sound(arena, 200);
}

TEST(PageArenaModel, WhatIsSetAsideIsReleasedByAPurge) {
    Arena arena({{kSetAside, reuse(1)}, {kPurge}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 2);
    arena.give(0, 3, 1);
    expect_sound(arena, 200);
}

TEST(PageArenaModel, AClaimOfGivenSlabsFindsThemAside) {
    Arena arena({{kSetAside, reuse(1)}, {claim_at(3, 2)}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 2);
    arena.give(0, 3, 1);
    expect_sound(arena, 40);
}

// The metadata of a whole free SuperSlab is given back.
TEST(PageArenaModel, PurgeOfMetadataAndClaim) {
    Arena arena({{kPurge}, {claim_at(31, 1)}}, kFirst, kFirst + 1);
    arena.free_at_start(0, 33);
    arena.give(0, 0, 1);
    arena.before(0, kRelease);
    arena.before(0, kPurgeHighest);
    expect_sound(arena, 500);
}

TEST(PageArenaModel, TheRegionForgetsMetadataWhileOneClaims) {
    Arena arena({{kPurge}, {claim_at(31, 1)}}, kFirst, kFirst + 1);
    arena.free_at_start(0, 33);
    arena.give(0, 0, 1);
    arena.before(0, kRelease);
    arena.before(0, kPurge);
    expect_sound(arena, 200);
}

TEST(PageArenaModel, PurgeOfMetadataAndRelease) {
    Arena arena({{kPurge}, {kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(0, 33);
    arena.give(1, 0, 1);
    expect_sound(arena, 1000);
}

// Where rights are charged for, a SuperSlab out of use loses them.
TEST(PageArenaModel, ASuperSlabIsDecommittedWhileOneClaims) {
    Arena arena({{kPurge}, {claim_at(31, 1)}}, kFirst, kFirst + 1, true);
    arena.free_at_start(0, 33);
    arena.give(0, 0, 1);
    arena.before(0, kRelease);
    arena.before(0, kPurgeHighest);
    expect_sound(arena, 500);
}

TEST(PageArenaModel, ASuperSlabIsDecommittedWhileOneComesAndGoes) {
    Arena arena({{kPurge}, {claim_at(31, 1), kRelease}}, kFirst, kFirst + 1, true);
    arena.free_at_start(0, 33);
    arena.give(0, 0, 1);
    arena.before(0, kRelease);
    arena.before(0, kPurgeHighest);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, TwoCommitASuperSlab) {
    Arena arena({{claim_at(0, 1), kRelease}, {claim_at(1, 1)}}, kFirst, kFirst + 1, true);
    arena.free_at_start(0, 2);
    expect_sound(arena, 500);
}

TEST(PageArenaModel, DISABLED_TwoPurgesOfMetadata) {
    Arena arena({{kPurge}, {kPurge}, {claim_at(31, 1)}}, kFirst, kFirst + 1);
    arena.free_at_start(0, 32);
    arena.give(0, 0, 1);
    arena.before(0, kRelease);
    arena.before(0, kPurgeHighest);
    expect_sound(arena, 1000);
}

// The upper group is not used any more: the top comes down.
TEST(PageArenaModel, TheTopComesDownWhileOneClaims) {
    Arena arena({{kPurge}, {claim_at(64, 1)}}, kBorder, kBorder + 1);
    arena.free_at_start(64, 64);
    arena.give(0, 64, 1);
    arena.before(0, kRelease);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, TheTopComesDownWhileOneReleases) {
    Arena arena({{kPurge, kPurge}, {kRelease}}, kBorder, kBorder + 1);
    arena.free_at_start(64, 64);
    arena.give(1, 64, 1);
    expect_sound(arena, 1000);
}

// A child of a thread that is in the middle of anything can go on.
const Program kChild = {claim(1), kPurge, kRelease, kPurgeHighest};

TEST(PageArenaModel, AChildOfTwoThatClaimAndRelease) {
    Arena arena({{claim(1), kRelease}, {kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 2);
    arena.give(1, 3, 1);
    arena.with_forks(kChild);
    expect_sound(arena, 1000);
}

TEST(PageArenaModel, AChildOfPurgeAndRelease) {
    Arena arena({{kPurge}, {kRelease}}, kFirst, kFirst + 1);
    arena.free_at_start(3, 2);
    arena.give(0, 3, 1);
    arena.give(1, 4, 1);
    arena.before(0, kRelease);
    arena.with_forks(kChild);
    expect_sound(arena, 1000);
}

} // namespace
