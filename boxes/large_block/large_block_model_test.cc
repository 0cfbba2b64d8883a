// SPDX-License-Identifier: Apache-2.0
// Model checking of the hardened flavour's freed large blocks: every interleaving of threads that
// free blocks, give the pages of waiting runs back, empty the queue, and claim runs again, and
// every fork in between. The queue has two places. The kernel and the arena are part of the model.
#include "boxes/large_block/large_block.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/hardening/hardening.h"
#include "boxes/large_block/large_block_model.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/superslab/superslab.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

int64_t settings_values[SETTING_COUNT];
struct hardening hardening;
struct page_arena_known page_arena_known;

namespace {

using model::Op;
using model::Program;

constexpr size_t kRuns = 4;
constexpr size_t kThreads = 3;
// Runs of two slabs lose their access rights while they wait.
constexpr std::array<size_t, kRuns> kSlabs = {1, 1, 2, 2};
constexpr size_t kApart = 4; // slabs from the start of a run to that of the next

enum Kind { RETIRE, MOVED, AGE, FLUSH, CLAIM };

Op retire(unsigned run) {
    return {RETIRE, run};
}
Op moved(unsigned run) {
    return {MOVED, run};
}
const Op kAge = {AGE, 0};
const Op kAgeAll = {AGE, 1};
const Op kFlush = {FLUSH};
const Op kClaim = {CLAIM}; // the lowest run that is free

struct Memory {
    page_arena_window window = {};
    page_arena_group group = {};
    alignas(HAK_PAGE) superslab only = {};

    Memory() {
        window.base = reinterpret_cast<char *>(uintptr_t{1} << 40); // nothing is read there
        window.slabs = ARENA_GROUP_SLABS;
        window.groups = &group;
        window.meta = reinterpret_cast<char *>(&only);
    }
    size_t run_at(const void *at) const { return page_arena_slab_of(&window, at) / kApart; }
};

Memory &memory() {
    static Memory the_memory;
    return the_memory;
}

// What the kernel refuses.
enum Refused { NOTHING = 0, TO_HIDE = 1, TO_COMMIT = 2, TO_CLEAN = 4 };

class Queue : public model::Checker {
  public:
    Queue(std::vector<Program> programs, unsigned refused = NOTHING)
        : Checker(std::move(programs)), refused_(refused) {
        struct model_queue queue = model_get_queue();
        *queue.next = 0;
        *queue.old = 0;
        memset(const_cast<size_t *>(queue.dirty), 0, 2 * sizeof *queue.dirty);
        memset(const_cast<uint64_t *>(queue.places), 0, MODEL_PLACES * sizeof *queue.places);
        cells(queue.next, sizeof *queue.next, 1, "next");
        cells(queue.old, sizeof *queue.old, 1, "old");
        cells(queue.dirty, sizeof *queue.dirty, 2, "dirty");
        cells(queue.places, sizeof *queue.places, MODEL_PLACES, "places");
        set(SETTING_QUARANTINE, ARENA_SLAB / 64); // one slab with rights keeps its pages
        set(SETTING_PROTECT, 2 * ARENA_SLAB);
        set(SETTING_PROTECT_KEEP, 4 * ARENA_SLAB);
        set(SETTING_DECAY_MS, 1000);
        ignore(settings_values, sizeof settings_values);
        ignore(&hardening.on, sizeof hardening.on,
               HARDENING_ZERO | HARDENING_CHECK_ZERO | HARDENING_QUARANTINE);
        for (size_t run = 0; run < kRuns; run++) {
            slab &meta = memory().only.slabs[run * kApart];
            ignore(&meta.size, sizeof meta.size, size_of(run));
            ignore(&meta.colour, sizeof meta.colour);
        }
        data(&shared_, sizeof shared_);
    }

    static Queue &current() { return static_cast<Queue &>(Checker::current()); }

    // Thread t has a block in that run at the start.
    Queue &has(size_t t, size_t run) {
        shared_.runs[run] = {t + 1, 1, 1};
        return *this;
    }

    // Calls of the box. Each is about a run that is neither free nor a live block's.
    void clear(const char *block) {
        change("makes zero run", memory().run_at(block), [this](Run &run) {
            touch(run);
            run.filled = 0;
            return true;
        });
    }
    bool is_clear(const char *block) {
        return change("looks at run", memory().run_at(block), [this](Run &run) {
            touch(run);
            return run.filled == 0;
        });
    }
    os_result hide(const void *at) {
        bool done = change("hides run", memory().run_at(at), [this](Run &run) {
            run.rights = 0; // of a part at least, if the kernel refuses halfway
            return (refused_ & TO_HIDE) == 0;
        });
        return done ? OS_OK : OS_NO_MEMORY;
    }
    os_result commit(const void *at) {
        bool done = change("gives rights to run", memory().run_at(at), [this](Run &run) {
            run.rights = run.rights != 0 || (refused_ & TO_COMMIT) == 0;
            return (refused_ & TO_COMMIT) == 0;
        });
        return done ? OS_OK : OS_NO_MEMORY;
    }
    os_result forbid(const void *at) {
        change("forbids run", memory().run_at(at), [](Run &run) {
            run.rights = 0;
            run.filled = 0;
            return true;
        });
        return OS_OK;
    }
    bool clean(size_t slab, size_t slabs) {
        return change("cleans run", slab / kApart, [=](Run &run) {
            check_length(slab, slabs);
            run.filled = (refused_ & TO_CLEAN) != 0 ? run.filled : 0;
            return (refused_ & TO_CLEAN) == 0;
        });
    }
    void release(size_t slab, size_t slabs) {
        change("releases run", slab / kApart, [=](Run &run) {
            check_length(slab, slabs);
            touch(run);
            if (run.filled != 0) {
                note("a run leaves the queue that is not zero");
            }
            run.user = kFree;
            return true;
        });
    }

  protected:
    void perform(const Op &op) override {
        size_t slab = op.a * kApart;
        char *block = static_cast<char *>(page_arena_address(&memory().window, slab));
        if (first() && (op.kind == RETIRE || op.kind == MOVED)) {
            Run &run = shared_.runs[op.a];
            if (run.user != running() + 1) {
                note("the program frees a block that it does not have");
            }
            run.user = kFreed;
            run.filled = op.kind == RETIRE; // a block that was moved has left no pages
        }
        switch (op.kind) {
        case RETIRE:
            if (!model_retire(block, size_of(op.a), slab, kSlabs[op.a])) {
                note("a block does not wait");
            }
            break;
        case MOVED:
            if (!model_retire_moved(slab, kSlabs[op.a])) {
                note("a run does not wait");
            }
            break;
        case AGE:
            large_block_age(op.a != 0);
            break;
        case FLUSH:
            large_block_flush();
            break;
        default:
            step("claims run", [this] {
                for (size_t i = 0; i < kRuns; i++) {
                    if (shared_.runs[i].user == kFree) {
                        shared_.runs[i] = {running() + 1, 1, 1};
                        return uint64_t{i};
                    }
                }
                return uint64_t{kRuns};
            });
            break;
        }
    }

    std::string name_of(const Op &op) const override {
        const char *const names[] = {"frees run ", "has moved run ", "looks at ages", "flushes",
                                     "claims a run"};
        return names[op.kind] + (op.kind <= MOVED ? std::to_string(op.a) : "");
    }

    void at_end(bool is_child) override {
        if (is_child) {
            return; // Runs that other threads had in their hands are lost.
        }
        run_alone(0, kFlush);
        struct model_queue queue = model_get_queue();
        if (!faulty() && (queue.dirty[0] != 0 || queue.dirty[1] != 0)) {
            note("pages are counted that do not wait");
        }
        for (const Run &run : shared_.runs) {
            if (run.user == kFreed && (run.rights != 0 || (refused_ & TO_COMMIT) == 0)) {
                note("a run is lost");
            }
        }
    }

    std::string describe() const override {
        std::string text;
        for (size_t i = 0; i < kRuns; i++) {
            const Run &run = shared_.runs[i];
            text += "run " + std::to_string(i) +
                    (run.user == kFree    ? " is free"
                     : run.user == kFreed ? " waits"
                                          : " is thread " + std::to_string(run.user - 1) + "'s") +
                    (run.rights != 0 ? "" : ", without rights") +
                    (run.filled != 0 ? ", filled\n" : "\n");
        }
        return text;
    }

  private:
    // Of a run: the thread that has a block in it, from 1 on.
    static constexpr uint64_t kFree = 0, kFreed = kThreads + 1;
    struct Run {
        uint64_t user = kFree;
        uint64_t rights = 1;
        uint64_t filled = 0; // there is something other than zero
    };

    static size_t size_of(size_t run) { return kSlabs[run] * ARENA_SLAB - HAK_PAGE; }

    void set(enum setting setting, int64_t value) {
        ignore(&settings_values[setting], sizeof value, static_cast<uint64_t>(value));
    }

    template <typename Change> bool change(const char *name, size_t run, Change action) {
        return step(name,
                    [=] {
                        if (shared_.runs[run].user != kFreed) {
                            note(std::string(name) + " " + std::to_string(run) +
                                 ", which does not wait");
                        }
                        return run << 1 | uint64_t{action(shared_.runs[run])};
                    }) &
               1;
    }
    void touch(const Run &run) {
        if (run.rights == 0) {
            note("a run without rights is used");
        }
    }
    void check_length(size_t slab, size_t slabs) {
        if (slab % kApart != 0 || slabs != kSlabs[slab / kApart]) {
            note("not a run");
        }
    }

    const unsigned refused_;
    struct {
        std::array<Run, kRuns> runs;
    } shared_ = {};
};

} // namespace

// Calls of the box.
page_arena_window page_arena_work_out_window() {
    return memory().window;
}
const page_arena_window *page_arena_write_window(page_arena_window *room) {
    *room = page_arena_work_out_window();
    return room;
}
bool page_arena_is_tight() {
    return false;
}
void page_arena_release(size_t from, size_t slabs, bool) {
    Queue::current().release(from, slabs);
}
bool page_arena_clean(size_t from, size_t slabs) {
    return Queue::current().clean(from, slabs);
}
void hardening_clear_many(void *at, size_t) {
    Queue::current().clear(static_cast<char *>(at));
}
bool hardening_is_clear_many(void *at, size_t) {
    return Queue::current().is_clear(static_cast<char *>(at));
}
void hardening_refuse_written(const char *, const void *) {
    Queue::current().fail("reported as written to after it was freed");
}

extern "C" {
size_t superslab_grain = 1;
bool large_drop_guard(const page_arena_window *, size_t) {
    return true;
}
void large_forget_guard(slab *) {}
bool os_is_absent(const void *) {
    return false;
}
os_result os_hide(void *at, size_t) {
    return Queue::current().hide(at);
}
os_result os_commit_alone(void *at, size_t) {
    return Queue::current().commit(at);
}
os_result os_forbid(void *at, size_t) {
    return Queue::current().forbid(at);
}
void diag_misuse(const char *, const void *, const char *fault) {
    Queue::current().fail(std::string("reported as misuse: ") + fault);
}
void diag_broken(const char *where, const char *what) {
    Queue::current().fail(std::string("broken in ") + where + ": " + what);
}
}

namespace {

void expect_sound(Queue &queue, size_t least_states) {
    ASSERT_TRUE(queue.check()) << queue.report();
    EXPECT_GE(queue.states(), least_states);
    EXPECT_GE(queue.ends(), 1u);
    printf("%zu states, %zu ends, %zu forks\n", queue.states(), queue.ends(), queue.children());
}

TEST(LargeBlockModel, BlocksWaitAndAreUsedAgain) {
    Queue queue({{retire(0), kClaim}, {retire(1), kClaim}});
    expect_sound(queue.has(0, 0).has(1, 1), 300);
}

TEST(LargeBlockModel, MoreBlocksThanPlaces) {
    Queue queue({{retire(0), retire(2)}, {retire(1), retire(3), kClaim}});
    expect_sound(queue.has(0, 0).has(0, 2).has(1, 1).has(1, 3), 1000);
}

TEST(LargeBlockModel, BlocksWithoutRights) {
    Queue queue({{retire(2), kClaim}, {retire(3), kClaim}, {kFlush}});
    expect_sound(queue.has(0, 2).has(1, 3), 1000);
}

TEST(LargeBlockModel, BlocksAgeWhileOthersComeAndGo) {
    Queue queue({{retire(0), kAgeAll, kClaim}, {retire(1), retire(2)}});
    expect_sound(queue.has(0, 0).has(1, 1).has(1, 2), 1000);
}

TEST(LargeBlockModel, TwoLookAtAges) {
    Queue queue({{retire(2), kAge, kAge}, {kAge, kAgeAll, kClaim}});
    expect_sound(queue.has(0, 2), 500);
}

TEST(LargeBlockModel, AgesAndAFlush) {
    Queue queue({{retire(2), kAgeAll}, {kFlush, kClaim}, {retire(1)}});
    expect_sound(queue.has(0, 2).has(2, 1), 1000);
}

TEST(LargeBlockModel, AllPlacesAgeWhileBlocksCome) {
    Queue queue({{kAgeAll}, {retire(2), retire(3), kClaim}});
    queue.has(0, 0).has(0, 1).has(1, 2).has(1, 3);
    queue.before(0, retire(0));
    queue.before(0, moved(1));
    expect_sound(queue, 300);
}

TEST(LargeBlockModel, MovedBlocksWait) {
    Queue queue({{moved(2), kClaim}, {moved(0), retire(1)}, {kAgeAll}});
    expect_sound(queue.has(0, 2).has(1, 0).has(1, 1), 1000);
}

TEST(LargeBlockModel, TheKernelRefuses) {
    for (unsigned refused = 1; refused <= (TO_HIDE | TO_COMMIT | TO_CLEAN); refused++) {
        Queue queue({{retire(2), kAgeAll, kClaim}, {retire(3), retire(0), kFlush}}, refused);
        expect_sound(queue.has(0, 2).has(1, 3).has(1, 0), 300);
    }
}

TEST(LargeBlockModel, AChild) {
    Queue queue({{retire(0), kAgeAll, kClaim}, {retire(1), retire(2)}});
    queue.has(0, 0).has(1, 1).has(1, 2);
    queue.with_forks({kAgeAll, kFlush, kClaim, kClaim});
    expect_sound(queue, 1000);
}

} // namespace
