// SPDX-License-Identifier: Apache-2.0
// Model checking of medium blocks: every interleaving of threads that allocate, free, resize and
// purge in one or two chunks, and every fork in between. A page belongs to one block, or is free in
// a chunk, or goes back to the arena with its chunk.
#include "boxes/medium_block/medium_block.h"

#include "backends/os.h"
#include "boxes/medium_block/medium_block_model.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/superslab/superslab.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

namespace {

using model::Op;
using model::Program;

constexpr size_t kChunks = 3;
constexpr size_t kSlabs = SUPERSLAB_CHUNK_SLABS;
constexpr size_t kPages = SUPERSLAB_CHUNK_PAGES;
constexpr size_t kMostThreads = 3, kMostBlocks = 10;

enum Kind { ALLOC, FREE, RESIZE, PURGE, FLUSH };

// A block of so many pages.
Op alloc(unsigned pages) {
    return {ALLOC, pages};
}
// The thread's newest block.
const Op kFree = {FREE};
Op resize(unsigned pages) {
    return {RESIZE, pages};
}
const Op kPurge = {PURGE};
const Op kFlush = {FLUSH};

// Memory as the box sees it: addresses, and one SuperSlab's metadata.
struct Memory {
    page_arena_window window;
    page_arena_group group;
    page_arena_region region;
    alignas(HAK_PAGE) superslab meta;

    Memory() : group(), region(), meta() {
        void *base = mmap(nullptr, 2 * size_t{ARENA_SUPERSLAB}, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        EXPECT_NE(base, MAP_FAILED);
        window.base = reinterpret_cast<char *>(
            hak_round_up(reinterpret_cast<uintptr_t>(base), ARENA_SUPERSLAB));
        window.slabs = ARENA_GROUP_SLABS;
        window.groups = &group;
        window.regions = &region;
        window.meta = reinterpret_cast<char *>(&meta);
        page_arena_known.window = window;
        page_arena_known.ready = true;
    }
};

Memory &memory() {
    static Memory the_memory;
    return the_memory;
}

} // namespace

int64_t settings_values[SETTING_COUNT];
struct page_arena_known page_arena_known;

namespace {

class Chunks : public model::Checker {
  public:
    // `chunks`: how many the arena has. `keeps`: a slot keeps pages of freed blocks.
    Chunks(std::vector<Program> programs, size_t chunks, bool keeps)
        : Checker(std::move(programs)), chunks_(chunks) {
        model_keeps = keeps;
        Memory &m = memory();
        memset(static_cast<void *>(&m.group), 0, sizeof m.group);
        memset(static_cast<void *>(&m.region), 0, sizeof m.region);
        memset(static_cast<void *>(&m.meta), 0, sizeof m.meta);
        for (size_t c = 0; c < SUPERSLAB_CHUNKS; c++) {
            superslab_chunk &chunk = m.meta.chunks[c];
            slab &first = m.meta.slabs[c * kSlabs];
            if (c >= chunks) { // is never used
                ignore(&first.kind, sizeof first.kind);
                ignore(&chunk, sizeof chunk);
                continue;
            }
            const std::string of = " of chunk " + std::to_string(c);
            cells(&chunk.avail, sizeof chunk.avail[0], SUPERSLAB_CHUNK_WORDS, "avail" + of);
            cells(&chunk.touched, sizeof chunk.touched[0], SUPERSLAB_CHUNK_WORDS, "touched" + of);
            cells(&first.kind, sizeof first.kind, 1, "kind" + of);
            cells(&m.meta.bits[c * kSlabs], sizeof(uint64_t), kPages, "entries" + of);
            ignore(&first.active, sizeof first.active); // a hint to the purge
            ignore(&first.owner, sizeof first.owner, hak_thread_slot());
        }
        cells(&m.meta.longest, sizeof m.meta.longest, 1, "longest runs");
        cells(&m.group.user, sizeof m.group.user[0], ARENA_GROUP_USER_WORDS, "group's");
        cells(&m.region.user, sizeof m.region.user[0], ARENA_GROUP_USER_WORDS, "region's");
        ignore(&m.group.committed, sizeof m.group.committed, 1);
        ignore(&m.group.meta_used, sizeof m.group.meta_used, 1);
        ignore(settings_values, sizeof settings_values);
        ignore(&superslab_grain, sizeof superslab_grain, HAK_CACHE_LINE);
        ignore(model_counted(), sizeof(uint64_t), 1);
        ignore(model_mark(), sizeof(uint64_t));
        size_t size;
        volatile void *all = model_all_kept(&size);
        memset(const_cast<void *>(all), 0, size);
        size_t words;
        volatile uint64_t *kept = model_kept(&words);
        cells(kept, sizeof(uint64_t), words, "kept");
        ignore(all, size); // by others
        all = model_all_remembered(&size);
        memset(const_cast<void *>(all), 0, size);
        cells(model_remembered(), sizeof(uint64_t), 1, "remembered");
        ignore(all, size);
        shared_.avail = (uint64_t{1} << chunks) - 1;
        data(&shared_, sizeof shared_);
    }

    static Chunks &current() { return static_cast<Chunks &>(Checker::current()); }

    // Calls that the box makes.
    size_t claim() {
        return step("claims a chunk", [this] {
            if (shared_.avail == 0) {
                return uint64_t{ARENA_NONE};
            }
            const auto chunk = static_cast<uint64_t>(__builtin_ctzll(shared_.avail));
            shared_.avail &= shared_.avail - 1;
            shared_.back[chunk] = 0;
            return chunk * kSlabs;
        });
    }
    void release(size_t from, size_t slabs) {
        step("releases slabs", [=] {
            const size_t chunk = from / kSlabs;
            check_no_live(from * (ARENA_SLAB / HAK_PAGE), slabs * (ARENA_SLAB / HAK_PAGE),
                          "a slab was released under a live block");
            const uint64_t bits = ((uint64_t{1} << slabs) - 1) << from % kSlabs;
            if ((shared_.avail >> chunk & 1) != 0 || (shared_.back[chunk] & bits) != 0) {
                note("a slab was released twice");
            }
            if (memory().meta.chunks[chunk].avail[0] != 0 ||
                memory().meta.chunks[chunk].avail[1] != 0) {
                note("a slab was released with pages that can be taken");
            }
            shared_.back[chunk] |= bits;
            if (shared_.back[chunk] == (1 << kSlabs) - 1) {
                shared_.avail |= uint64_t{1} << chunk;
            }
            return uint64_t{from};
        });
    }
    void purge(const void *at, size_t size) {
        step("purges pages", [=] {
            check_no_live(page_of(at), size / HAK_PAGE, "a live page was purged");
            return uint64_t{1};
        });
    }
    size_t slabs() const { return chunks_ * kSlabs; }

  protected:
    void perform(const Op &op) override {
        Holder &holder = shared_.holders[running()];
        const page_arena_window &window = memory().window;
        switch (op.kind) {
        case ALLOC: {
            void *ptr = medium_block_alloc(op.a * size_t{HAK_PAGE}, HAK_PAGE, false);
            if (ptr == nullptr) {
                if (is_survivors() || threads() == 1) {
                    note("no block, though there is room");
                }
                break;
            }
            own(holder, {page_of(ptr), op.a});
            break;
        }
        case FREE: {
            if (first()) { // another thread may have the pages before the call ends
                holder.freeing = {0, 0};
                if (holder.count > 0) {
                    holder.freeing = holder.blocks[--holder.count];
                    holder.blocks[holder.count] = {0, 0};
                }
            }
            if (holder.freeing.pages != 0) {
                const void *ptr = at(holder.freeing.from);
                if (!medium_block_free(&window, ptr, page_arena_slab_of(&window, ptr))) {
                    note("a block could not be freed");
                }
            }
            holder.freeing = {0, 0};
            break;
        }
        case RESIZE: {
            if (holder.count == 0) {
                break;
            }
            Run &block = holder.blocks[holder.count - 1];
            if (first()) { // likewise
                holder.before = block.pages;
                block.pages = std::min<size_t>(block.pages, op.a);
            }
            const void *ptr = at(block.from);
            const bool done = medium_block_resize(&window, ptr, page_arena_slab_of(&window, ptr),
                                                  op.a * size_t{HAK_PAGE});
            if (!done && op.a < holder.before) {
                note("a block could not shrink");
            }
            const Run now = {block.from, done ? op.a : holder.before};
            block = {0, 0};
            holder.count--;
            own(holder, now);
            break;
        }
        case PURGE: {
            medium_block_walk walk = {0, 0, true, false};
            medium_block_purge(&walk, SIZE_MAX, SIZE_MAX);
            break;
        }
        default:
            medium_block_flush();
            break;
        }
    }

    std::string name_of(const Op &op) const override {
        switch (op.kind) {
        case ALLOC:
            return "allocates " + std::to_string(op.a) + " pages";
        case FREE:
            return "frees";
        case RESIZE:
            return "resizes to " + std::to_string(op.a) + " pages";
        case PURGE:
            return "purges";
        default:
            return "flushes";
        }
    }

    void threads_are_gone() override {
        for (size_t t = 0; t < kMostThreads; t++) {
            if (t != running()) { // what it had in its hands stays out for ever
                shared_.holders[t].freeing = {0, 0};
            }
        }
    }

    void at_end(bool is_child) override {
        if (is_child) {
            return; // what the survivor did was checked
        }
        check_lengths();
        for (size_t t = 0; t < threads() && !faulty(); t++) {
            while (shared_.holders[t].count > 0 && !faulty()) {
                run_alone(t, kFree);
            }
        }
        if (!faulty()) {
            run_alone(0, kFlush);
        }
        if (!faulty() && shared_.avail != (uint64_t{1} << chunks_) - 1) {
            run_alone(0, kPurge);
            note(shared_.avail == (uint64_t{1} << chunks_) - 1
                     ? "only a purge gives a chunk without a block back"
                     : "a page is lost");
        }
    }

    std::string describe() const override {
        std::string text = "free chunks: " + std::to_string(shared_.avail) + "\n";
        for (size_t t = 0; t < threads(); t++) {
            for (size_t i = 0; i < shared_.holders[t].count; i++) {
                const Run &block = shared_.holders[t].blocks[i];
                text += "thread " + std::to_string(t) + " has " + std::to_string(block.pages) +
                        " pages from " + std::to_string(block.from) + "\n";
            }
        }
        return text;
    }

  private:
    struct Run {
        size_t from, pages;
    };
    struct Holder {
        std::array<Run, kMostBlocks> blocks;
        Run freeing;
        size_t count, before;
    };

    static size_t page_of(const void *ptr) {
        return static_cast<size_t>(static_cast<const char *>(ptr) - memory().window.base) /
               HAK_PAGE;
    }
    static char *at(size_t page) { return memory().window.base + page * HAK_PAGE; }

    void check_no_live(size_t from, size_t pages, const char *what) {
        for (const Holder &holder : shared_.holders) {
            for (const Run &block : holder.blocks) {
                if (block.pages != 0 && block.from < from + pages &&
                    from < block.from + block.pages) {
                    note(what);
                }
            }
        }
    }
    void own(Holder &holder, Run run) {
        check_no_live(run.from, run.pages, "a page is in two blocks");
        if ((run.from + run.pages - 1) / kPages != run.from / kPages) {
            note("a block spans two chunks");
        }
        if ((shared_.avail >> run.from / kPages & 1) != 0) {
            note("a block lies in a chunk that is free");
        }
        holder.blocks[holder.count++] = run;
    }

    // While no thread is in the middle of a call, each chunk with room that nobody remembers can be
    // found.
    void check_lengths() {
        Memory &m = memory();
        unsigned greatest = 0;
        for (size_t c = 0; c < chunks_; c++) {
            superslab_chunk &chunk = m.meta.chunks[c];
            if (m.meta.slabs[c * kSlabs].kind != SLAB_CHUNK ||
                *model_remembered() == c * kSlabs + 1) {
                continue;
            }
            unsigned longest = 0, length = 0;
            for (size_t page = 0; page < kPages; page++) {
                length = (chunk.avail[page / 64] >> page % 64 & 1) != 0 ? length + 1 : 0;
                longest = std::max(longest, length);
            }
            longest = longest < 9 ? 0 : std::min(longest, 32u);
            if (byte(&m.meta.longest, c) != longest) {
                note("a chunk has another longest run than is said");
            }
            greatest = std::max(greatest, longest);
        }
        if (byte(&m.group.user[SIZE_CLASS_BINS], 0) < greatest) {
            note("a group does not lead to a chunk");
        }
        if (byte(&m.region.user[SIZE_CLASS_BINS], 0) < greatest) {
            note("a region does not lead to a chunk");
        }
    }
    static unsigned byte(const atomic_bitmap_word *word, size_t place) {
        return uint8_t(*word >> place * 8);
    }

    const size_t chunks_;
    struct {
        uint64_t avail;                     // chunks that the arena has
        std::array<uint64_t, kChunks> back; // slabs of the others that were released
        std::array<Holder, kMostThreads> holders;
    } shared_ = {};
};

} // namespace

// What the box calls.
page_arena_window page_arena_work_out_window() {
    return memory().window;
}
bool page_arena_find_place() {
    return true;
}
bool page_arena_reaches(size_t slab) {
    return slab < ARENA_SUPERSLAB_SLABS;
}
bool page_arena_is_tight() {
    return false;
}
size_t page_arena_top() {
    return Chunks::current().slabs();
}
size_t page_arena_walk(page_arena_window *window) {
    *window = page_arena_get_window();
    return page_arena_top();
}
size_t page_arena_claim_filled(size_t, size_t, bool *zero) {
    *zero = true;
    return Chunks::current().claim();
}
void page_arena_release(size_t from, size_t slabs, bool) {
    Chunks::current().release(from, slabs);
}
size_t os_least_purge() {
    return HAK_PAGE;
}
os_result os_purge(void *at, size_t size) {
    Chunks::current().purge(at, size);
    return OS_OK;
}

namespace {

constexpr bool kKeeps = true, kGives = false;

class MediumBlockModel : public testing::Test {
  protected:
    static void expect_good(Chunks &chunks) {
        EXPECT_TRUE(chunks.check()) << chunks.report();
        printf("%zu states, %zu ends, %zu children\n", chunks.states(), chunks.ends(),
               chunks.children());
    }
};

TEST_F(MediumBlockModel, TwoThreadsAllocateAndFree) {
    Chunks chunks({{alloc(12), kFree}, {alloc(20), kFree}}, 2, kGives);
    expect_good(chunks);
}

TEST_F(MediumBlockModel, TheLastPagesOfAChunkAreTakenOnce) {
    // 8 pages are left of word 0, and 2 of them and 10 of word 1 are one run.
    Chunks chunks({{alloc(12)}, {alloc(10), kFree}}, 1, kGives);
    for (int i = 0; i < 3; i++) {
        chunks.before(0, alloc(32));
    }
    expect_good(chunks);
}

TEST_F(MediumBlockModel, AChunkEmptiesWhileAnotherThreadTakesPages) {
    Chunks chunks({{kFree, kFree}, {alloc(30), kFree}}, 2, kGives);
    chunks.before(0, alloc(32));
    chunks.before(0, alloc(32));
    chunks.before(0, kFlush);
    expect_good(chunks);
}

TEST_F(MediumBlockModel, TwoThreadsFreeTheLastBlocks) {
    Chunks chunks({{kFree}, {kFree}, {kFlush}}, 1, kGives);
    chunks.before(0, alloc(32));
    chunks.before(1, alloc(32));
    expect_good(chunks);
}

TEST_F(MediumBlockModel, PurgeAndTakers) {
    Chunks chunks({{kPurge}, {kFree, alloc(16)}}, 1, kGives);
    chunks.before(0, alloc(16));
    chunks.before(1, alloc(20));
    expect_good(chunks);
}

TEST_F(MediumBlockModel, KeptPages) {
    Chunks chunks({{kFree, alloc(12)}, {kFree, alloc(12)}}, 1, kKeeps);
    chunks.before(0, alloc(12));
    chunks.before(1, alloc(12));
    expect_good(chunks);
}

TEST_F(MediumBlockModel, PagesAreKeptWhereOthersAre) {
    Chunks chunks({{kFree}, {kFree, alloc(12)}}, 1, kKeeps);
    for (size_t thread : {0, 0, 0, 1}) {
        chunks.before(thread, alloc(12));
    }
    chunks.before(0, kFree);
    expect_good(chunks);
}

TEST_F(MediumBlockModel, APlaceIsClosedWhileAThreadTakesPages) {
    Chunks chunks({{kFree, alloc(12), alloc(12)}, {alloc(12)}, {}}, 1, kKeeps);
    for (int i = 0; i < 6; i++) {
        chunks.before(0, alloc(12));
    }
    chunks.before(2, alloc(32)); // no page is left
    chunks.before(2, alloc(24));
    for (int i = 0; i < 5; i++) { // two are kept, and three were pushed out
        chunks.before(0, kFree);
    }
    expect_good(chunks);
}

TEST_F(MediumBlockModel, KeptPagesAreGivenBack) {
    Chunks chunks({{kFree, alloc(12)}, {kFlush}}, 2, kKeeps);
    chunks.before(0, alloc(12));
    expect_good(chunks);
}

TEST_F(MediumBlockModel, ResizesAndTakers) {
    Chunks chunks({{resize(12), resize(18)}, {alloc(9), kFree}}, 1, kGives);
    chunks.before(0, alloc(16));
    expect_good(chunks);
}

// A thread frees in a chunk that nobody remembers, while another one searches.
TEST_F(MediumBlockModel, RoomThatAThreadFreesIsFound) {
    Chunks chunks({{kFree, kFree}, {alloc(20)}, {}}, 2, kGives);
    for (int i = 0; i < 8; i++) {
        chunks.before(i < 4 ? 0 : 2, alloc(32));
    }
    expect_good(chunks);
}

// A search finds nothing in a group whose length is too great, while a thread frees there. There is
// no room for another chunk, which would raise the length again.
TEST_F(MediumBlockModel, AGroupIsLoweredWhileAThreadFrees) {
    Chunks chunks({{kFree}, {alloc(20)}, {}}, 2, kGives);
    for (int i = 0; i < 8; i++) {
        chunks.before(i < 4 ? 0 : 2, alloc(32));
    }
    chunks.before(0, kFree);
    chunks.before(2, kFree);     // of the chunk that is remembered
    chunks.before(2, alloc(32)); // there,
    chunks.before(0, alloc(32)); // and where the first was
    expect_good(chunks);
}

// Two threads of a slot leave the chunk that it remembers.
TEST_F(MediumBlockModel, TwoThreadsLeaveAChunk) {
    Chunks chunks({{alloc(32)}, {alloc(32)}, {}}, 3, kGives);
    for (unsigned pages : {32, 32, 32, 23}) {
        chunks.before(2, alloc(pages));
    }
    expect_good(chunks);
}

// A thread remembers a chunk that another one of its slot leaves at once.
TEST_F(MediumBlockModel, DISABLED_AChunkIsLeftWhileItIsRemembered) {
    Chunks chunks({{alloc(9)}, {alloc(32), alloc(32)}, {}}, 3, kGives);
    const struct {
        size_t thread;
        unsigned pages;
    } blocks[] = {{2, 32}, {2, 32}, {2, 23}, {0, 32}, {0, 9}, // full
                  {2, 32}, {2, 32}, {2, 32}, {2, 32}};        // remembered, and full
    for (const auto &block : blocks) {
        chunks.before(block.thread, alloc(block.pages));
    }
    chunks.before(0, kFree);
    chunks.before(0, kFree);
    expect_good(chunks);
}

TEST_F(MediumBlockModel, TwoThreadsFreeNeighboursAndATakerSearches) {
    Chunks chunks({{kFree, kFree}, {kFree, alloc(30)}, {}}, 2, kGives);
    for (int i = 0; i < 8; i++) {
        chunks.before(i < 2 ? 0 : i < 4 ? 1 : 2, alloc(32));
    }
    expect_good(chunks);
}

// 9 pages are left of the chunk that a thread leaves, until another thread frees some there.
TEST_F(MediumBlockModel, DISABLED_AThreadLeavesAChunkWhileAnotherFrees) {
    Chunks chunks({{kFree}, {alloc(32)}, {}}, 2, kGives);
    const unsigned counts[] = {32, 32, 32, 23};
    for (int i = 0; i < 4; i++) {
        chunks.before(i == 0 || i == 3 ? 2 : 0, alloc(counts[i]));
    }
    expect_good(chunks);
}

// Two threads free in the same two chunks, and say what they have seen.
TEST_F(MediumBlockModel, TwoThreadsFreeInTwoChunks) {
    Chunks chunks({{kFree, kFree}, {kFree, kFree}, {}}, 3, kGives);
    const struct {
        size_t thread;
        unsigned pages;
    } blocks[] = {{0, 32}, {0, 32}, {2, 32}, {2, 23}, // and 9 that are free
                  {1, 9},  {2, 23}, {1, 9},  {2, 32}, {2, 32}, {2, 23}, {2, 9}, // full
                  {2, 9}}; // the one that is remembered
    for (const auto &block : blocks) {
        chunks.before(block.thread, alloc(block.pages));
    }
    expect_good(chunks);
}

// Two chunks of a SuperSlab get longer runs at the same time. (Pages that a block gives up are not
// kept.)
TEST_F(MediumBlockModel, TwoThreadsShrinkBlocksInTwoChunks) {
    Chunks chunks({{resize(10)}, {resize(11)}, {}}, 3, kGives);
    const struct {
        size_t thread;
        unsigned pages;
    } blocks[] = {{0, 32}, {2, 32}, {2, 32}, {2, 23},          // and 9 that are free
                  {1, 20}, {2, 32}, {2, 32}, {2, 32}, {2, 12}, // full
                  {2, 32}};                                    // remembered
    for (const auto &block : blocks) {
        chunks.before(block.thread, alloc(block.pages));
    }
    expect_good(chunks);
}

TEST_F(MediumBlockModel, ForksAtAnyTime) {
    Chunks chunks({{kFree, alloc(20)}, {alloc(12), kFree}}, 2, kGives);
    chunks.before(0, alloc(16));
    chunks.with_forks({alloc(24), kFree, kPurge});
    expect_good(chunks);
}

} // namespace
