// SPDX-License-Identifier: Apache-2.0
// Model checking of the pool's lock-free core: every interleaving of two or three threads that
// take, put and purge blocks of one or two slabs, and every fork in between.
//
// The model runs the pool's own source (shared_pool_model.c), over bins that it has chosen: of
// 1, 2, 3, 63, 64, 65 and 128 blocks, all with their bitmaps at the same place. Where many blocks
// would make many states, the threads hold most of them from the start to the end.
//
// Built for the hardened flavour, it has searches of slabs that stay their bin's and end in a guard
// page, too.
#include "boxes/shared_pool/shared_pool.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/hardening/hardening.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool_model.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

namespace {

using model::Op;
using model::Program;

constexpr size_t kSlabs = 2; // the model's slabs are numbered 0 and 1
constexpr size_t kWords = 2; // the most words of a slab's bitmap
constexpr size_t kMostThreads = 3;

using Mask = std::array<uint64_t, kWords>;

enum Kind { TAKE, PUT, PURGE, LEAVE, GIVE };

Op take(unsigned bin, unsigned want = 1) {
    return {TAKE, bin, want};
}
// Puts back the lowest blocks that the thread holds, all in one slab.
Op put(unsigned count) {
    return {PUT, count};
}
const Op kPutOne = put(1);
const Op kPut = put(0); // 0: all blocks
const Op kPurge = {PURGE};
const Op kLeave = {LEAVE}; // the home
const Op kGive = {GIVE};   // the slabs that stay and have no live block

// The heap as the pool sees it: addresses only.
struct Memory {
    page_arena_window window;
    page_arena_group group;
    page_arena_region region;
    alignas(HAK_PAGE) superslab superslabs[kSlabs];
    size_t apart = 1; // the pool's slab s * apart is the model's slab s

    Memory() : group(), region(), superslabs() {
        void *base = mmap(nullptr, (kSlabs + 1) * size_t{ARENA_SUPERSLAB}, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        EXPECT_NE(base, MAP_FAILED);
        window.base = reinterpret_cast<char *>(
            hak_round_up(reinterpret_cast<uintptr_t>(base), ARENA_SUPERSLAB));
        window.slabs = ARENA_GROUP_SLABS;
        window.groups = &group;
        window.regions = &region;
        window.meta = reinterpret_cast<char *>(superslabs);
    }

    void reset(size_t slabs_apart) {
        apart = slabs_apart;
        memset(static_cast<void *>(&group), 0, sizeof group);
        memset(static_cast<void *>(&region), 0, sizeof region);
        memset(static_cast<void *>(superslabs), 0, sizeof superslabs);
        memset(window.base, 0, kSlabs * apart);
    }

    superslab &superslab_of(size_t s) { return superslabs[s * apart / ARENA_SUPERSLAB_SLABS]; }
    slab &meta_of(size_t s) { return superslab_of(s).slabs[s * apart % ARENA_SUPERSLAB_SLABS]; }
};

Memory &memory() {
    static Memory the_memory;
    return the_memory;
}

} // namespace

int64_t settings_values[SETTING_COUNT];
#if HAK_HARDENED
struct hardening hardening;
#endif

namespace {

// The words that take part in a search. Other words are constant, and take no step.
enum Part {
    NO_MORE = 0,
    PAGES = 1,   // the bits of pages without memory
    REGIONS = 2, // the summary above the groups
    APART = 4,   // each slab in a SuperSlab of its own
    HOME = 8,    // the first SuperSlab is the home of thread 0's group, its slabs are spare
    GUARDS = 16, // slabs stay their bin's, and end in a guard if that costs few blocks
    BARE = 32,   // of slabs that stay, those without a live block give their pages back at once
    CROWDED = 64 // slabs that stay go back as soon as they have no live block
};

class Pool : public model::Checker {
  public:
    Pool(std::vector<Program> programs, size_t slabs, unsigned parts = NO_MORE)
        : Checker(std::move(programs)), slabs_(slabs), parts_(parts) {
        Memory &m = memory();
        m.reset((parts & APART) != 0 ? ARENA_SUPERSLAB_SLABS : 1);
        for (size_t s = 0; s < kSlabs; s++) {
            slab &meta = m.meta_of(s);
            std::string of = " of slab " + std::to_string(s);
            cells(&meta.bits, sizeof meta.bits[0], SLAB_INLINE_WORDS, "bits" + of);
            cells(&meta.kind, sizeof meta.kind, 1, "kind" + of);
            cells(&meta.bin, sizeof meta.bin, 1, "bin" + of);
            if ((parts & PAGES) != 0) {
                cells(&meta.clean, sizeof meta.clean, 1, "clean" + of);
            } else {
                ignore(&meta.clean, sizeof meta.clean);
            }
            ignore(&meta.active, sizeof meta.active); // a hint to the decay
            if (stays()) {
                cells(&meta.pages, sizeof meta.pages, 1, "pages" + of);
            }
            if ((parts & BARE) != 0) {
                cells(&meta.empty, sizeof meta.empty, 1, "empty" + of);
            } else {
                ignore(&meta.empty, sizeof meta.empty, 1); // no slab is the one too many
            }
        }
        ignore_hardening();
        for (superslab &each : m.superslabs) {
            std::string of = " of SuperSlab " + std::to_string(&each - m.superslabs);
            cells(&each.listed, sizeof each.listed[0], ARENA_GROUP_USER_WORDS, "listed" + of);
            ignore(&each.taker, sizeof each.taker); // a hint to takers
            const bool home = (parts & HOME) != 0 && &each == m.superslabs;
            if (home) {
                cells(&each.owner, sizeof each.owner, 1, "owner" + of);
                cells(&each.spare, sizeof each.spare, 1, "spare" + of);
                each.owner = kOwner;
                each.spare = (1u << slabs) - 1;
            } else {
                ignore(&each.owner, sizeof each.owner);
                ignore(&each.spare, sizeof each.spare);
            }
            ignore(&each.idle, sizeof each.idle, kIdle); // a walk finds it idle
            for (slab &other : each.slabs) {
                ignore(&other.kind, sizeof other.kind); // of slabs that are never used
            }
        }
        cells(m.window.base, 1, kSlabs * m.apart, "page map");
        cells(&m.group.user, sizeof m.group.user[0], ARENA_GROUP_USER_WORDS, "group's");
        if ((parts & REGIONS) != 0) {
            cells(&m.region.user, sizeof m.region.user[0], ARENA_GROUP_USER_WORDS, "region's");
        } else {
            ignore(&m.region.user, sizeof m.region.user, 1);
        }
        ignore(&m.group.dirty, sizeof m.group.dirty);
        ignore(&m.group.committed, sizeof m.group.committed, (1u << kSlabs) - 1);
        ignore(&m.group.meta_used, sizeof m.group.meta_used, (1u << kSlabs) - 1);
        size_t bytes;
        const volatile void *totals = model_totals(&bytes);
        ignore(settings_values, sizeof settings_values);
        ignore(model_shared(), sizeof(bool), (parts & HOME) != 0);
        ignore(totals, bytes);
        const volatile void *lines = model_lines(&bytes);
        ignore(lines, bytes);
        const auto *homes = static_cast<const volatile size_t *>(model_homes(&bytes));
        ignore(homes, sizeof *homes, (parts & HOME) != 0); // the first SuperSlab's, plus 1
        ignore(homes + 1, bytes - sizeof *homes);
        shared_.avail = (parts & HOME) != 0 ? 0 : (1u << slabs) - 1;
        data(&shared_, sizeof shared_);
    }

    // Calls that the pool makes.
    static Pool &current() { return static_cast<Pool &>(Checker::current()); }

    size_t claim() {
        return step("claims a slab", [this] {
            uint64_t avail = shared_.avail;
            if (avail == 0) {
                return uint64_t{ARENA_NONE};
            }
            shared_.avail &= avail - 1;
            return static_cast<uint64_t>(__builtin_ctzll(avail)) * memory().apart;
        });
    }

    void release(size_t index) {
        size_t slab = index / memory().apart;
        step("releases slab", [this, slab] {
            if ((shared_.avail >> slab & 1) != 0) {
                note("a slab was released twice");
            }
            if ((shared_.guards >> slab & 1) != 0) {
                note("a slab was released with its guard");
            }
            for (const Holder &holder : shared_.holders) {
                if (holder.held[slab] != Mask{}) {
                    note("a slab was released while a block of it was out");
                }
            }
            if (bits(slab) != Mask{}) {
                note("a slab was released with blocks in its bitmap");
            }
            shared_.avail |= uint64_t{1} << slab;
            return uint64_t{slab};
        });
    }

    void purge(const void *at, size_t size) {
        step("purges a range", [=] {
            auto from = static_cast<size_t>(static_cast<const char *>(at) - memory().window.base);
            check_no_live(from, from + size);
            return uint64_t{1};
        });
    }

    // The last page of a slab loses its access rights, or gets them back. Returns false if the
    // kernel refuses.
    bool set_guard(size_t index, bool guard) {
        size_t slab = index / memory().apart;
        return step(guard ? "guards slab" : "takes the guard away from slab", [=] {
                   if ((shared_.avail >> slab & 1) != 0) {
                       note("the rights of a slab change that the arena holds");
                   }
                   if (shared_.refusals > 0) {
                       shared_.refusals--;
                       return kSlabs;
                   }
                   uint64_t others = shared_.guards & ~(uint64_t{1} << slab);
                   shared_.guards = others | uint64_t{guard} << slab;
                   return slab;
               }) != kSlabs;
    }
    void refuses_once() { shared_.refusals = 1; }

    // When all blocks have been put back, no slab is left.
    void all_go() { all_go_ = true; }

    // Thread `t` has taken from the first slab before. (No summary leads to a home.)
    void knows_first_slab(size_t t) { shared_.holders[t].hint = 0; }

    size_t high() const { return (slabs_ - 1) * memory().apart + 1; }
    bool stays() const { return (parts_ & GUARDS) != 0; }
    bool is_crowded() const { return (parts_ & CROWDED) != 0; }

  protected:
    void perform(const Op &op) override {
        Holder &holder = shared_.holders[running()];
        switch (op.kind) {
        case TAKE: {
            shared_pool_hint hint = holder.hint;
            unsigned count =
                running() == 0 && (parts_ & HOME) != 0
                    ? shared_pool_take_home(op.a, blocks_, op.b, &hint, begin_company())
                    : shared_pool_take(op.a, blocks_, op.b, &hint);
            holder.hint = hint;
            for (unsigned i = 0; i < count; i++) {
                own(op.a, blocks_[i]);
            }
            if (count == 0 && is_survivors()) {
                check_nothing_is_free(op.a);
            }
            break;
        }
        case PUT: {
            if (first()) {
                start_put(holder, op.a);
            }
            unsigned bin = static_cast<unsigned>(holder.bin[holder.putting_slab]);
            unsigned count = 0;
            for (size_t block = 0; block < kWords * 64; block++) {
                if ((holder.putting[block / 64] >> block % 64 & 1) != 0) {
                    blocks_[count++] = block_at(holder.putting_slab, bin, block);
                }
            }
            if (count > 0) {
                shared_pool_put(bin, blocks_, count);
            }
            holder.putting = {};
            break;
        }
        case LEAVE: {
            shared_pool_leave_homes();
            break;
        }
        case GIVE: {
            shared_pool_give_kept();
            break;
        }
        default: {
            shared_pool_walk walk = {};
            walk.all = true;
            shared_pool_purge(&walk, SIZE_MAX, SIZE_MAX);
            break;
        }
        }
    }

    std::string name_of(const Op &op) const override {
        switch (op.kind) {
        case TAKE:
            return "takes " + std::to_string(op.b) + " of bin " + std::to_string(op.a);
        case PUT:
            return op.a == 0 ? "puts all" : "puts " + std::to_string(op.a);
        case LEAVE:
            return "leaves its home";
        case GIVE:
            return "gives empty slabs away";
        default:
            return "purges";
        }
    }

    void threads_are_gone() override {
        for (size_t t = 0; t < kMostThreads; t++) {
            Holder &holder = shared_.holders[t];
            if (t != running()) { // Blocks that its program has are never put back.
                holder.hint = 0;
                holder.putting = {};
                holder.putting_slab = 0;
            }
        }
    }

    void at_end(bool is_child) override {
        if (is_child) {
            check_child();
            return;
        }
        check_rest("at the end");
        if ((parts_ & HOME) != 0) {
            run_alone(0, kLeave);
        }
        // When all blocks have been put back, every slab goes back to the arena.
        for (size_t t = 0; t < threads() && !faulty(); t++) {
            for (size_t s = 0; s < kSlabs; s++) {
                run_alone(t, kPut);
            }
        }
        shared_.refusals = 0;
        if (all_go_ && !faulty() && shared_.avail != (1u << slabs_) - 1) {
            note("a slab without a live block is kept");
        }
        if (stays() && !faulty()) {
            run_alone(0, kGive);
        }
        check_rest("when all is put back");
        if (!faulty() && shared_.avail != (1u << slabs_) - 1) {
            note("a slab is lost");
        }
    }

    std::string describe() const override {
        std::string text = "free slabs: " + std::to_string(shared_.avail) + "\n";
        for (size_t t = 0; t < threads(); t++) {
            for (size_t s = 0; s < slabs_; s++) {
                const Mask &held = shared_.holders[t].held[s];
                char line[120];
                snprintf(line, sizeof line,
                         "thread %zu holds blocks %#llx, %#llx of slab %zu, of bin %u\n", t,
                         static_cast<unsigned long long>(held[0]),
                         static_cast<unsigned long long>(held[1]), s,
                         static_cast<unsigned>(shared_.holders[t].bin[s]));
                text += held != Mask{} ? line : "";
            }
        }
        return text;
    }

  private:
    static constexpr uint32_t kOwner = 1; // group 0
    static constexpr uint32_t kIdle = 4;  // visits after which a home is left
    static constexpr unsigned kGuarded = ARENA_SLAB / HAK_PAGE - 1; // pages of a slab with a guard

    // Keys, counts and settings that only the hardened flavour has.
    void ignore_hardening() {
#if HAK_HARDENED
        ignore(&hardening.on, sizeof hardening.on, stays() ? HARDENING_SEPARATE : 0);
        ignore(&settings_values[SETTING_GUARD_PAGES], sizeof settings_values[0], kSlabs);
        ignore(model_guards(), sizeof(size_t));
        ignore(model_empty_slabs(), sizeof(size_t), (parts_ & BARE) != 0 ? SIZE_MAX / 2 : 0);
#endif
    }

    // The same at each call, as an operation is run again and again. It is the SuperSlab that says
    // whether the home is the group's.
    shared_pool_company *begin_company() {
        company_ = {};
        company_.met = UINT8_MAX;
        return &company_;
    }

    bool has_home() const {
        return (parts_ & HOME) != 0 && atomic_load(&memory().superslabs[0].owner) != 0;
    }
    bool is_spare(size_t s) const {
        return (parts_ & HOME) != 0 &&
               (atomic_load(&memory().superslab_of(s).spare) >> (s * memory().apart % 32) & 1) != 0;
    }

    struct Holder {
        shared_pool_hint hint = ARENA_NONE;
        std::array<Mask, kSlabs> held = {};
        std::array<uint64_t, kSlabs> bin = {}; // the bin of the blocks held
        // Blocks being put back: the thread has them until the step that sets their bits.
        Mask putting = {};
        uint64_t putting_slab = 0;
    };

    // Chooses the blocks of a put: blocks of the first slab of which the thread has any.
    static void start_put(Holder &holder, unsigned count) {
        for (size_t s = 0; s < kSlabs; s++) {
            if (holder.held[s] == Mask{}) {
                continue;
            }
            holder.putting_slab = s;
            holder.putting = {};
            unsigned left = count == 0 ? UINT32_MAX : count;
            for (size_t block = 0; block < kWords * 64 && left > 0; block++) {
                uint64_t bit = uint64_t{1} << block % 64;
                if ((holder.held[s][block / 64] & bit) != 0) {
                    holder.held[s][block / 64] &= ~bit;
                    holder.putting[block / 64] |= bit;
                    left--;
                }
            }
            return;
        }
    }

    static char *block_at(size_t slab, unsigned bin, size_t block) {
        return static_cast<char *>(page_arena_address(&memory().window, slab * memory().apart)) +
               block * size_class_bins[bin].size;
    }

    static slab &meta_of(size_t s) {
        return memory().meta_of(s);
    }

    static Mask bits(size_t slab) {
        return {atomic_load(&meta_of(slab).bits[0]), atomic_load(&meta_of(slab).bits[1])};
    }

    void own(unsigned bin, const void *ptr) {
        size_t slab = page_arena_slab_of(&memory().window, ptr) / memory().apart;
        size_t block = reinterpret_cast<uintptr_t>(ptr) % ARENA_SLAB / size_class_bins[bin].size;
        if (slab >= slabs_ || ptr != block_at(slab, bin, block) ||
            block >= size_class_bins[bin].blocks) {
            note("not a block");
            return;
        }
        uint64_t bit = uint64_t{1} << block % 64;
        for (const Holder &holder : shared_.holders) {
            if ((holder.held[slab][block / 64] & bit) != 0) {
                note("a block is owned twice");
            }
            if (holder.held[slab] != Mask{} && holder.bin[slab] != bin) {
                note("a slab serves two bins");
            }
        }
        if ((bits(slab)[block / 64] & bit) != 0) {
            note("a block that is out is in the bitmap");
        }
        if ((shared_.avail >> slab & 1) != 0) {
            note("a block of a slab that the arena holds");
        }
        if ((shared_.guards >> slab & 1) != 0 && block >= superslab_blocks_on(bin, kGuarded)) {
            note("a block on a guard");
        }
        Holder &holder = shared_.holders[running()];
        holder.held[slab][block / 64] |= bit;
        holder.bin[slab] = bin;
    }

    // Checks that no block that a thread holds is in these bytes.
    void check_no_live(size_t from, size_t to) {
        for (const Holder &holder : shared_.holders) {
            for (size_t s = 0; s < kSlabs; s++) {
                for (size_t block = 0; block < kWords * 64 && holder.held[s] != Mask{}; block++) {
                    size_t size = size_class_bins[holder.bin[s]].size;
                    size_t start = s * memory().apart * ARENA_SLAB + block * size;
                    if ((holder.held[s][block / 64] >> block % 64 & 1) != 0 && start < to &&
                        start + size > from) {
                        note("the pages of a live block were given back");
                    }
                }
            }
        }
    }

    void check_clean(size_t s) {
        unsigned clean = (parts_ & PAGES) != 0 ? atomic_load(&meta_of(s).clean) : 0;
        for (size_t page = 0; page < ARENA_SLAB / HAK_PAGE; page++) {
            if ((clean >> page & 1) != 0) {
                size_t start = s * memory().apart * ARENA_SLAB + page * HAK_PAGE;
                check_no_live(start, start + HAK_PAGE);
            }
        }
    }

    bool is_listed(size_t s, unsigned bin) const {
        size_t slab = s * memory().apart;
        uint64_t listed = atomic_load(&memory().superslab_of(s).listed[bin]);
        uint64_t group = atomic_load(&memory().group.user[bin]);
        uint64_t region = (parts_ & REGIONS) != 0 ? atomic_load(&memory().region.user[bin]) : 1;
        if (has_home() && slab < ARENA_SUPERSLAB_SLABS) {
            return (listed >> slab & 1) != 0;
        }
        return (listed >> slab % ARENA_SUPERSLAB_SLABS & 1) != 0 &&
               (group >> slab / ARENA_SUPERSLAB_SLABS & 1) != 0 && (region & 1) != 0;
    }

    // Returns the value of a word of a slab's bitmap when all of its blocks are free.
    static uint64_t full_word(size_t s, unsigned bin, unsigned word) {
        unsigned guarded = HAK_HARDENED != 0 && atomic_load(&meta_of(s).pages) == kGuarded;
        unsigned blocks =
            guarded ? superslab_blocks_on(bin, kGuarded) : unsigned{size_class_bins[bin].blocks};
        unsigned left = blocks - hak_min(blocks, word * 64);
        return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    }

    // Returns the blocks of a slab that threads hold, and their bin.
    Mask held_of(size_t s, unsigned *bin) const {
        Mask out = {};
        for (const Holder &holder : shared_.holders) {
            for (size_t w = 0; w < kWords; w++) {
                out[w] |= holder.held[s][w];
            }
            *bin = holder.held[s] != Mask{} ? static_cast<unsigned>(holder.bin[s]) : *bin;
        }
        return out;
    }

    void check_rest(const char *when) {
        std::string at = std::string(" ") + when;
        for (size_t s = 0; s < slabs_; s++) {
            unsigned bin = 0;
            Mask out = held_of(s, &bin);
            Mask in = bits(s);
            if (is_spare(s) && !has_home()) {
                note("a spare slab of no home" + at);
            }
            if ((shared_.avail >> s & 1) != 0 || is_spare(s)) {
                if (atomic_load(&meta_of(s).kind) != SLAB_NONE || in != Mask{} || out != Mask{}) {
                    note("a free slab has blocks" + at);
                }
                if ((shared_.guards >> s & 1) != 0 || atomic_load(&meta_of(s).pages) != 0) {
                    note("a free slab has a guard" + at);
                }
                continue;
            }
            if (stays() && bin == 0) {
                bin = atomic_load(&meta_of(s).bin);
            }
            if (atomic_load(&meta_of(s).pages) == SUPERSLAB_PAGES_HELD) {
                note("a slab's pages are held for ever" + at);
            }
            if (atomic_load(&meta_of(s).kind) != SLAB_TINY || bin != atomic_load(&meta_of(s).bin)) {
                note("a slab without a block that is out is in use" + at);
                continue;
            }
            for (unsigned w = 0; w < kWords; w++) {
                uint64_t full = full_word(s, bin, w);
                if ((in[w] & out[w]) != 0) {
                    note("a block is both free and out" + at);
                }
                if ((in[w] | out[w]) != full) {
                    note("a block is lost" + at);
                }
            }
            if (in != Mask{} && !is_listed(s, bin)) {
                note("a slab with free blocks is not listed" + at);
            }
            check_clean(s);
        }
    }

    // In a child, blocks and slabs that the other threads were working on may be lost.
    void check_child() {
        for (size_t s = 0; s < slabs_; s++) {
            unsigned bin = 0;
            Mask out = held_of(s, &bin);
            Mask in = bits(s);
            if ((in[0] & out[0]) != 0 || (in[1] & out[1]) != 0) {
                note("a block is both free and out in the child");
            }
            if ((shared_.avail >> s & 1) != 0 && (in != Mask{} || out != Mask{})) {
                note("a free slab has blocks in the child");
            }
            check_clean(s);
        }
    }

    // The child's thread has purged, which lists slabs that other threads were about to list, and
    // gets no block.
    void check_nothing_is_free(unsigned bin) {
        for (size_t s = 0; s < slabs_; s++) {
            if ((shared_.avail >> s & 1) != 0) {
                note("a child does not get a slab that is free");
            }
            if (atomic_load(&meta_of(s).kind) == SLAB_TINY && atomic_load(&meta_of(s).bin) == bin &&
                bits(s) != Mask{}) {
                note("a child does not get a block that is free");
            }
        }
    }

    const size_t slabs_;
    const unsigned parts_;
    bool all_go_ = false;
    shared_pool_company company_ = {};
    struct {
        uint64_t avail;      // the arena: bit s is slab s
        uint64_t guards = 0; // slabs whose last page has no access rights
        uint64_t refusals = 0;
        std::array<Holder, kMostThreads> holders;
    } shared_;
    void *blocks_[SHARED_POOL_BATCH_MOST];
};

} // namespace

// Calls that the pool makes.
struct page_arena_known page_arena_known;
bool page_arena_find_place() {
    return true;
}
page_arena_window page_arena_work_out_window() {
    return memory().window;
}
bool page_arena_reaches(size_t slab) {
    return slab < Pool::current().high();
}
size_t page_arena_mapped() {
    return Pool::current().high();
}
bool page_arena_is_tight() {
    return false;
}
size_t page_arena_claim_bare(bool *) {
    return ARENA_NONE;
}
bool page_arena_give_rights(size_t slab, unsigned page, unsigned pages) {
    EXPECT_EQ(page + pages, unsigned{ARENA_SLAB / HAK_PAGE});
    return Pool::current().set_guard(slab, false);
}
bool page_arena_clean(size_t, size_t) {
    return false;
}
void page_arena_count_sparse(ptrdiff_t) {}
size_t page_arena_top() {
    return Pool::current().high();
}
size_t page_arena_walk(page_arena_window *window) {
    *window = page_arena_get_window();
    return page_arena_top();
}
size_t page_arena_sparse() {
    return kSlabs;
}
size_t page_arena_limit() {
    return Pool::current().is_crowded() ? kSlabs : 0;
}

void page_arena_mark_dense(bool) {}

size_t page_arena_held() {
    return kSlabs;
}
size_t page_arena_claim(size_t slabs, size_t, bool *zero) {
    EXPECT_EQ(slabs, 1u);
    *zero = Pool::current().stays();
    return Pool::current().claim();
}
size_t page_arena_claim_filled(size_t slabs, size_t align, bool *zero) {
    return page_arena_claim(slabs, align, zero);
}
void page_arena_release(size_t from, size_t slabs, bool) {
    for (size_t i = 0; i < slabs; i++) {
        Pool::current().release(from + i);
    }
}
// No SuperSlab is free for a home.
size_t page_arena_dirty() {
    return SIZE_MAX;
}
size_t page_arena_claimed() {
    return kSlabs;
}
unsigned os_processors() {
    return 64;
}
size_t os_least_purge() {
    return HAK_PAGE;
}
os_result os_purge(void *at, size_t size) {
    Pool::current().purge(at, size);
    return OS_OK;
}
os_result os_forbid(void *at, size_t) {
    size_t slab = page_arena_slab_of(&memory().window, at);
    return Pool::current().set_guard(slab, true) ? OS_OK : OS_NO_MEMORY;
}
void diag_misuse(const char *, const void *, const char *fault) {
    Pool::current().fail(std::string("reported as misuse: ") + fault);
}
void diag_broken(const char *where, const char *what) {
    Pool::current().fail(std::string("broken in ") + where + ": " + what);
}

namespace {

// Explores, and says how much there was: a search that found little would prove little.
void expect_sound(Pool &pool, size_t least_states) {
    ASSERT_TRUE(pool.check()) << pool.report();
    EXPECT_GE(pool.states(), least_states);
    EXPECT_GE(pool.ends(), 1u);
    std::string states = std::to_string(pool.states());
    testing::Test::RecordProperty("states", states);
    printf("%s states, %zu ends, %zu forks\n", states.c_str(), pool.ends(), pool.children());
}

unsigned blocks_of(unsigned bin) {
    return size_class_bins[bin].blocks;
}

const unsigned kX = MODEL_2;
const unsigned kY = MODEL_2_SMALLER;
const unsigned kWide = MODEL_128;

TEST(SharedPoolModel, BinsAreWhatTheSearchesAreMadeFor) {
    const unsigned blocks[] = {0, 1, 2, 2, 3, 63, 64, 65, 128};
    for (unsigned bin = 1; bin < MODEL_BINS; bin++) {
        EXPECT_EQ(blocks_of(bin), blocks[bin]);
        EXPECT_EQ(size_class_bins[bin].words, (blocks[bin] + 63) / 64);
        EXPECT_LE(size_class_bins[bin].size * blocks[bin], unsigned{ARENA_SLAB});
        EXPECT_TRUE(superslab_bits_beside(bin)) << "all bitmaps are at the same place";
    }
}

TEST(SharedPoolModel, TwoTakeFromAFreshSlab) {
    Pool pool({{take(kX)}, {take(kX)}}, 1);
    expect_sound(pool, 50);
}

TEST(SharedPoolModel, TwoTakeAndPutBackOneBlockEach) {
    Pool pool({{take(kX), kPut}, {take(kX), kPut}}, 1);
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, TwoPutTheLastTwoBlocks) {
    Pool pool({{kPut}, {kPut}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    expect_sound(pool, 100);
}

TEST(SharedPoolModel, OnePutsTheLastBlockWhileAnotherTakes) {
    Pool pool({{kPut}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    expect_sound(pool, 500);
}

// By its hint a slow taker finds a slab that is given back and serves another bin by then.
TEST(SharedPoolModel, TheSlabIsReformattedUnderASlowTaker) {
    Pool pool({{kPut, take(kY)}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    pool.before(1, kPut);
    expect_sound(pool, 1000);
}

// Here the new bin finds no block while the slow taker holds it, and takes the slab off its list.
TEST(SharedPoolModel, TheSlowTakerPutsBackForTheNewBin) {
    Pool pool({{kPut, take(kY), take(kY)}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    pool.before(1, kPut);
    expect_sound(pool, 5000);
}

TEST(SharedPoolModel, TheSlabIsReformattedTwice) {
    Pool pool({{kPut, take(kY), kPut, take(kX)}, {take(kX, 2)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    pool.before(1, kPut);
    expect_sound(pool, 50000);
}

TEST(SharedPoolModel, ThreeWithTheLastTwoBlocks) {
    Pool pool({{kPut}, {kPut}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, DISABLED_ThreeAndAReformat) {
    Pool pool({{kPut, take(kY)}, {kPut}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    pool.before(2, take(kX)); // takes nothing, but sets the thread's hint
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, ThreeTakeAndPutOfAFreshSlab) {
    Pool pool({{take(kX), kPut}, {take(kX)}, {take(kX)}}, 1);
    expect_sound(pool, 1000);
}

// Two slabs of a bin share a word of the list, and both a bit of its summary.
TEST(SharedPoolModel, TwoSlabsOfABinAndTheirList) {
    Pool pool({{kPutOne}, {kPutOne}, {take(kX)}}, 2);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    expect_sound(pool, 300);
}

TEST(SharedPoolModel, TwoSlabsOneTakerOfBoth) {
    Pool pool({{kPutOne, take(kX)}, {take(kX, 2)}}, 2);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    pool.before(1, kPutOne);
    expect_sound(pool, 500);
}

TEST(SharedPoolModel, TwoSlabsOfTwoBinsChangePlaces) {
    Pool pool({{kPut, take(kY)}, {kPut, take(kX)}}, 2);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kY, 2));
    expect_sound(pool, 1000);
}

// The summary above the groups takes part: one slab is emptied while a block of it comes back.
TEST(SharedPoolModel, OnePutsWhileAnotherTakesTheLastBlockWithRegions) {
    Pool pool({{kPutOne}, {take(kX, 2)}}, 1, REGIONS);
    pool.before(0, take(kX, 2));
    pool.before(0, kPutOne);
    expect_sound(pool, 300);
}

TEST(SharedPoolModel, TwoSlabsOneTakerOfBothWithRegions) {
    Pool pool({{kPutOne}, {take(kX, 2)}}, 2, REGIONS);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    pool.before(1, kPutOne);
    expect_sound(pool, 300);
}

// Two SuperSlabs share a word of their group, and both a bit of the region's.
TEST(SharedPoolModel, TwoSuperSlabsOfABinAndTheirLists) {
    Pool pool({{kPutOne}, {kPutOne}, {take(kX)}}, 2, REGIONS | APART);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    expect_sound(pool, 300);
}

TEST(SharedPoolModel, OneSuperSlabIsEmptiedWhileTheOtherFills) {
    Pool pool({{kPutOne}, {take(kX, 2)}}, 2, REGIONS | APART);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    pool.before(1, kPutOne);
    expect_sound(pool, 300);
}

TEST(SharedPoolModel, BothSuperSlabsAreEmptiedAndFilled) {
    Pool pool({{kPutOne, take(kX, 2)}, {take(kX, 2), kPutOne}}, 2, REGIONS | APART);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    pool.before(1, kPutOne);
    expect_sound(pool, 1000);
}

// A home's slabs are in no summary. Here it is left while another thread frees a block there.
TEST(SharedPoolModel, AHomeIsLeftWhileABlockComesBack) {
    Pool pool({{kLeave}, {kPutOne}}, 1, REGIONS | HOME);
    pool.before(0, take(kX));
    pool.knows_first_slab(1);
    pool.before(1, take(kX));
    expect_sound(pool, 300);
}

TEST(SharedPoolModel, AHomeIsLeftWhileItsLastBlocksComeBack) {
    Pool pool({{kPut, kLeave}, {kPut}}, 1, HOME);
    pool.before(0, take(kX));
    pool.knows_first_slab(1);
    pool.before(1, take(kX));
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, AHomeIsLeftByAWalkWhileItsThreadTakes) {
    Pool pool({{take(kX)}, {kPurge}}, 1, HOME);
    expect_sound(pool, 300);
}

TEST(SharedPoolModel, AHomeIsLeftWhileAnotherTakesItsLastBlock) {
    Pool pool({{kLeave}, {take(kX)}}, 1, REGIONS | HOME);
    pool.before(0, take(kX));
    expect_sound(pool, 100);
}

// A bitmap of two words is reclaimed word by word.
TEST(SharedPoolModel, TwoWordsPutBack) {
    Pool pool({{kPut}, {kPut}}, 1);
    pool.before(0, take(kWide, 64));
    pool.before(1, take(kWide, 64));
    expect_sound(pool, 100);
}

TEST(SharedPoolModel, DISABLED_TwoWordsPutBackWhileAnotherTakes) {
    Pool pool({{kPut}, {kPut}, {take(kWide, 64)}}, 1);
    pool.before(0, take(kWide, 64));
    pool.before(1, take(kWide, 64));
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, TwoWordsAndASlowTakerOfAnotherBin) {
    Pool pool({{kPut, take(kX)}, {take(kWide, 100)}}, 1);
    pool.before(0, take(kWide, 64));
    pool.before(1, take(kWide, 64));
    pool.before(1, kPut);
    expect_sound(pool, 1000);
}

// The decay takes the blocks of a page out for a while. The bits of pages take part here, too.
TEST(SharedPoolModel, PurgeAndPut) {
    Pool pool({{kPut}, {kPurge}}, 1, PAGES);
    pool.before(0, take(kX));
    expect_sound(pool, 100);
}

TEST(SharedPoolModel, PurgeAndTake) {
    Pool pool({{take(kX)}, {kPurge}}, 1, PAGES);
    pool.before(0, take(kX));
    expect_sound(pool, 100);
}

TEST(SharedPoolModel, PurgeAndReformat) {
    Pool pool({{kPut, take(kY)}, {kPurge}}, 1, PAGES);
    pool.before(0, take(kX));
    expect_sound(pool, 1000);
}

// A page without a live block of the old bin has a live block of the new bin.
TEST(SharedPoolModel, PurgeByTheOldBin) {
    Pool pool({{kPut, take(kY, 2), kPutOne}, {kPurge}}, 1, PAGES);
    pool.before(0, take(kX));
    expect_sound(pool, 5000);
}

// A slab of 64 blocks, four a page: thread `t` holds the last block, and all other pages except for
// the first are purged.
void leave_a_page(Pool &pool, size_t t) {
    pool.before(1 - t, take(MODEL_64, 63));
    pool.before(t, take(MODEL_64));
    pool.before(1 - t, kPut);
    pool.before(1 - t, kPurge);
    pool.before(1 - t, take(MODEL_64));
    pool.before(1 - t, kPut);
}

TEST(SharedPoolModel, TwoPurges) {
    Pool pool({{kPurge}, {kPurge}}, 1, PAGES);
    leave_a_page(pool, 0);
    expect_sound(pool, 500);
}

TEST(SharedPoolModel, TwoPurgesAndATaker) {
    Pool pool({{kPurge}, {kPurge}, {take(MODEL_64), kPut}}, 1, PAGES);
    leave_a_page(pool, 0);
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, DISABLED_PurgePutAndTake) {
    Pool pool({{kPut}, {kPurge}, {take(MODEL_64)}}, 1, PAGES);
    leave_a_page(pool, 0);
    expect_sound(pool, 1000);
}

// Forks. The child gives back memory, which lists slabs that other threads were about to list, and
// then allocates.
const Program kChild = {kPurge, take(kX), take(kY), kPut};

TEST(SharedPoolModel, AChildOfTwoThatTakeAndPut) {
    Pool pool({{take(kX), kPut}, {take(kX), kPut}}, 2);
    pool.with_forks(kChild);
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, AChildOfTwoThatPutTheLastBlocksAndOneThatTakes) {
    Pool pool({{kPut}, {kPut}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    pool.with_forks(kChild);
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, AChildInTheMiddleOfAReformat) {
    Pool pool({{kPut, take(kY), take(kY)}, {take(kX)}}, 1);
    pool.before(0, take(kX));
    pool.before(1, take(kX));
    pool.before(1, kPut);
    pool.with_forks(kChild);
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, AChildInTheMiddleOfAPurge) {
    Pool pool({{kPut, take(kY)}, {kPurge}}, 1, PAGES);
    pool.before(0, take(kX));
    pool.with_forks(kChild);
    expect_sound(pool, 1000);
}

TEST(SharedPoolModel, AChildWithTwoSlabsOfABin) {
    Pool pool({{kPutOne, take(kX)}, {take(kX, 2)}}, 2);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    pool.before(1, kPutOne);
    pool.with_forks(kChild);
    expect_sound(pool, 500);
}

TEST(SharedPoolModel, AChildWithTwoSuperSlabsOfABin) {
    Pool pool({{kPutOne}, {take(kX, 2)}}, 2, REGIONS | APART);
    pool.before(0, take(kX, 2));
    pool.before(1, take(kX, 2));
    pool.before(1, kPutOne);
    pool.with_forks(kChild);
    expect_sound(pool, 500);
}

// Bins in pairs: a slab of the first bin becomes one of the second while a thread that was working
// on the slab is held up.
class SharedPoolGeometry : public testing::TestWithParam<std::pair<unsigned, unsigned>> {
  protected:
    const unsigned old_ = GetParam().first;
    const unsigned new_ = GetParam().second;

    // Thread 0 holds the last block, thread 1 has had all others.
    void start(Pool &pool) const {
        if (blocks_of(old_) > 1) {
            pool.before(1, take(old_, blocks_of(old_) - 1));
        }
        pool.before(0, take(old_));
        if (blocks_of(old_) > 1) {
            pool.before(1, kPut);
        }
    }
    // Takes as many of the new bin's blocks as make the bitmap look as if all blocks of the old bin
    // were free.
    unsigned as_if_all() const { return hak_min(blocks_of(old_), hak_max(blocks_of(new_) - 1, 1)); }
};

std::vector<std::pair<unsigned, unsigned>> pairs(bool same) {
    std::vector<std::pair<unsigned, unsigned>> some;
    for (unsigned a = 1; a < MODEL_BINS; a++) {
        for (unsigned b = 1; b < MODEL_BINS; b++) {
            if ((a == b) == same) {
                some.emplace_back(a, b);
            }
        }
    }
    return some;
}

std::string name_of_pair(const testing::TestParamInfo<std::pair<unsigned, unsigned>> &info) {
    auto name = [](unsigned bin) {
        return std::to_string(blocks_of(bin)) + (bin == MODEL_2_SMALLER ? "smaller" : "");
    };
    return name(info.param.first) + "_" + name(info.param.second);
}

INSTANTIATE_TEST_SUITE_P(Two, SharedPoolGeometry, testing::ValuesIn(pairs(false)), name_of_pair);
// A slab that serves the same bin again makes the most states.
INSTANTIATE_TEST_SUITE_P(DISABLED_One, SharedPoolGeometry, testing::ValuesIn(pairs(true)),
                         name_of_pair);

// Thread 0 sets the last bit, and looks at the bitmap when the slab serves another bin.
TEST_P(SharedPoolGeometry, AReclaimerIsHeldUp) {
    Pool pool({{kPut}, {take(old_), kPut, take(new_, blocks_of(new_)), put(as_if_all())}}, 1);
    start(pool);
    expect_sound(pool, 100);
}

TEST_P(SharedPoolGeometry, ATakerIsHeldUp) {
    Pool pool({{kPut, take(new_, blocks_of(new_)), put(as_if_all())}, {take(old_, 64)}}, 1);
    start(pool);
    expect_sound(pool, 100);
}

TEST_P(SharedPoolGeometry, AChildInTheMiddle) {
    Pool pool({{kPut, take(new_, blocks_of(new_)), put(as_if_all())}, {take(old_), kPut}}, 1);
    start(pool);
    pool.with_forks({kPurge, take(old_), take(new_), kPut});
    expect_sound(pool, 100);
}

// All pages of the slab but the first two are purged before.
TEST_P(SharedPoolGeometry, APurgerIsHeldUp) {
    constexpr unsigned kTwoPages = 5; // blocks
    Pool pool({{kPut, take(new_, blocks_of(new_)), put(hak_min(as_if_all(), kTwoPages))}, {kPurge}},
              1, PAGES);
    start(pool);
    pool.before(1, kPurge);
    pool.before(1, take(old_, hak_min(blocks_of(old_) - 1, kTwoPages)));
    pool.before(1, kPut);
    expect_sound(pool, 100);
}

#if HAK_HARDENED
// Slabs that stay, and end in a guard. Of 63 blocks 59 are in front of the guard, and the next one
// begins on the page before it. The slabs of kX, which have no guard, would lose one block of two.
const unsigned kGuarded = MODEL_63;
constexpr unsigned kInFront = 59;

// Thread `t` holds the last block. All pages but its own have been given back.
void leave_last_block(Pool &pool, size_t t) {
    pool.before(1 - t, take(kGuarded, kInFront - 1));
    pool.before(t, take(kGuarded));
    pool.before(1 - t, kPut);
    pool.before(1 - t, kPurge);
}

// No block is out, and only the page in front of the guard has memory.
void leave_last_page(Pool &pool) {
    leave_last_block(pool, 0);
    pool.before(0, kPut);
}

TEST(SharedPoolGuards, BinsAreWhatTheSearchesAreMadeFor) {
    constexpr unsigned kPages = ARENA_SLAB / HAK_PAGE - 1;
    EXPECT_EQ(superslab_blocks_on(kGuarded, kPages), kInFront);
    EXPECT_LT(kInFront * size_class_bins[kGuarded].size, kPages * HAK_PAGE);
    EXPECT_EQ(superslab_blocks_on(kX, kPages), blocks_of(kX) - 1);
    EXPECT_EQ(superslab_blocks_on(kY, kPages), blocks_of(kY));
}

TEST(SharedPoolGuards, TwoTakeFromAFreshSlab) {
    Pool pool({{take(kY), kPut}, {take(kY)}}, 1, GUARDS);
    expect_sound(pool, 100);
}

TEST(SharedPoolGuards, PurgeAndGive) {
    Pool pool({{kPurge}, {kGive}}, 1, GUARDS | PAGES);
    leave_last_page(pool);
    expect_sound(pool, 100);
}

TEST(SharedPoolGuards, PurgePutAndGive) {
    Pool pool({{kPut}, {kGive}, {kPurge}}, 1, GUARDS | PAGES);
    leave_last_block(pool, 0);
    expect_sound(pool, 1000);
}

TEST(SharedPoolGuards, TwoPurgesAndGive) {
    Pool pool({{kPurge}, {kGive}, {kPurge}}, 1, GUARDS | PAGES);
    leave_last_page(pool);
    expect_sound(pool, 1000);
}

TEST(SharedPoolGuards, TakeAndGive) {
    Pool pool({{take(kGuarded), kPut}, {kGive}}, 1, GUARDS);
    leave_last_page(pool);
    expect_sound(pool, 100);
}

TEST(SharedPoolGuards, TwoGive) {
    Pool pool({{kGive}, {kGive}}, 1, GUARDS);
    leave_last_page(pool);
    expect_sound(pool, 100);
}

// A slab is given away before it has its guard, or while it gets one.
TEST(SharedPoolGuards, AFreshSlabComesAndGoes) {
    Pool pool({{take(kGuarded), kPut}, {kGive}}, 1, GUARDS);
    expect_sound(pool, 100);
}

TEST(SharedPoolGuards, TheSlabGetsAnotherBin) {
    for (unsigned bin : {kX, kY, unsigned{MODEL_128}}) {
        Pool pool({{kGive, take(bin)}, {take(kGuarded, 64)}}, 1, GUARDS);
        leave_last_page(pool);
        expect_sound(pool, 100);
    }
}

TEST(SharedPoolGuards, TheSlabGetsAnotherBinUnderAPurge) {
    for (unsigned bin : {kX, kY, unsigned{MODEL_128}}) {
        Pool pool({{kGive, take(bin), kPut}, {kPurge}}, 1, GUARDS | PAGES);
        leave_last_page(pool);
        expect_sound(pool, 100);
    }
}

TEST(SharedPoolGuards, TheSlabGetsAnotherBinUnderAGive) {
    for (unsigned bin : {kX, kY, kGuarded}) {
        Pool pool({{kGive, take(bin), kPut}, {kGive}}, 1, GUARDS);
        leave_last_page(pool);
        expect_sound(pool, 100);
    }
}

// The slab has no guard at first.
TEST(SharedPoolGuards, TheSlabGetsAGuardUnderAGive) {
    Pool pool({{kGive, take(kY), kPut}, {kGive}}, 1, GUARDS);
    pool.refuses_once();
    pool.before(0, take(kY));
    pool.before(0, kPut);
    expect_sound(pool, 100);
}

TEST(SharedPoolGuards, AGuardThatIsKept) {
    Pool pool({{kGive, take(kGuarded), kPut}, {take(kGuarded), kPut}}, 1, GUARDS);
    leave_last_page(pool);
    pool.refuses_once();
    expect_sound(pool, 100);
}

// The thread that puts the last block back gives the slab's pages back, too.
TEST(SharedPoolGuards, PutOfTheLastBlockAndGive) {
    Pool pool({{kPut}, {kGive}}, 1, GUARDS | PAGES | BARE);
    leave_last_block(pool, 0);
    expect_sound(pool, 300);
}

TEST(SharedPoolGuards, PutOfTheLastBlockAndTake) {
    Pool pool({{kPut}, {take(kGuarded), kPut}}, 1, GUARDS | PAGES | BARE);
    leave_last_block(pool, 0);
    expect_sound(pool, 300);
}

TEST(SharedPoolGuards, PutOfTheLastBlocks) {
    Pool pool({{kPut}, {kPut}}, 1, GUARDS | PAGES | BARE);
    pool.before(0, take(kY));
    pool.before(1, take(kY));
    expect_sound(pool, 300);
}

// The thread that puts the last block back gives the slab away.
TEST(SharedPoolGuards, PutOfTheLastBlocksOfACrowd) {
    for (unsigned bin : {kX, kY}) {
        Pool pool({{kPut, take(kY)}, {kPut, take(bin)}}, 1, GUARDS | CROWDED);
        pool.before(0, take(bin));
        pool.before(1, take(bin));
        pool.all_go();
        expect_sound(pool, 100);
    }
}

// With a guard, the slab has no block in the bitmap's second word.
TEST(SharedPoolGuards, PutOfTheLastBlocksWhereAWordHasNone) {
    Pool pool({{kPut}, {kPut}}, 1, GUARDS | CROWDED);
    EXPECT_LE(superslab_blocks_on(MODEL_65, ARENA_SLAB / HAK_PAGE - 1), 64u);
    pool.before(0, take(MODEL_65));
    pool.before(1, take(MODEL_65, 64));
    pool.all_go();
    expect_sound(pool, 100);
}

TEST(SharedPoolGuards, PutOfTheLastBlockOfACrowdAndPurge) {
    Pool pool({{kPut, take(kY), kPut}, {kPurge}}, 1, GUARDS | PAGES | CROWDED);
    leave_last_block(pool, 0);
    expect_sound(pool, 300);
}

TEST(SharedPoolGuards, PutOfTheLastBlockOfACrowdTakeAndGive) {
    Pool pool({{kPut}, {take(kGuarded), kPut}, {kGive}}, 1, GUARDS | CROWDED);
    leave_last_block(pool, 0);
    expect_sound(pool, 300);
}

TEST(SharedPoolGuards, AChildOfACrowd) {
    Pool pool({{kPut, take(kY)}, {take(kGuarded), kPut}}, 1, GUARDS | CROWDED);
    leave_last_block(pool, 0);
    pool.with_forks({kPurge, kGive, take(kGuarded), take(kY), kPut});
    expect_sound(pool, 300);
}

TEST(SharedPoolGuards, AChildOfAGiveAndATake) {
    Pool pool({{take(kGuarded), kPut}, {kGive}}, 1, GUARDS);
    leave_last_page(pool);
    pool.with_forks({kPurge, kGive, take(kGuarded), take(kY), kPut});
    expect_sound(pool, 300);
}

TEST(SharedPoolGuards, AChildOfAGiveAndAPurge) {
    Pool pool({{kPurge}, {kGive, take(kY)}}, 1, GUARDS | PAGES);
    leave_last_page(pool);
    pool.with_forks({kPurge, kGive, take(kGuarded), take(kY), kPut});
    expect_sound(pool, 300);
}
#endif

} // namespace
