// SPDX-License-Identifier: Apache-2.0
// Model checking of the thread heaps' directory: every interleaving of threads that start, end, and
// flush heaps without a thread, and every fork in between, with its handler.
//
// The model runs the box's own source, with the bins of the header strategy, which are fewer. The
// heaps' caches are replaced by ones that are always empty: the model is about who has a heap.
#include "boxes/thread_heap/thread_heap.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/settings/settings.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap_model.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

int64_t settings_values[SETTING_COUNT];

namespace {

using model::Op;
using model::Program;

constexpr size_t kHeaps = 4; // the most heaps

enum Kind { GET, EXIT, FLUSH_FREE, START };

const Op kGet = {GET};
const Op kExit = {EXIT};
const Op kFlushFree = {FLUSH_FREE};
const Op kStart = {START}; // a new thread takes the place of the one that ended

struct Memory {
    page_arena_window window = {};
    alignas(HAK_PAGE) superslab meta;

    Memory() : meta() {
        void *at = mmap(nullptr, 2 * size_t{ARENA_SUPERSLAB}, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        EXPECT_NE(at, MAP_FAILED);
        window.base = reinterpret_cast<char *>(
            hak_round_up(reinterpret_cast<uintptr_t>(at), ARENA_SUPERSLAB));
        window.slabs = ARENA_SUPERSLAB_SLABS;
        window.meta = reinterpret_cast<char *>(&meta);
    }
    thread_heap *heap(size_t i) const {
        return static_cast<thread_heap *>(page_arena_address(&window, i));
    }
};

Memory &memory() {
    static Memory the_memory;
    return the_memory;
}

class Directory : public model::Checker {
  public:
    explicit Directory(std::vector<Program> programs, int32_t idle = 0)
        : Checker(std::move(programs)), idle_(idle) {
        Memory &m = memory();
        vars_ = model_start(idle);
        cells(vars_.key, sizeof *vars_.key, 1, "key");
        cells(vars_.made, sizeof *vars_.made, 1, "made");
        cells(vars_.idle, sizeof *vars_.idle, 1, "idle");
        cells(vars_.free, sizeof *vars_.free, 1, "free");
        cells(vars_.cold, sizeof *vars_.cold, 1, "cold");
        cells(vars_.heaps, sizeof *vars_.heaps, 64, "heaps");
        for (size_t i = 0; i < kHeaps; i++) {
            thread_heap *heap = m.heap(i);
            memset(static_cast<void *>(heap), 0, sizeof *heap);
            cells(&heap->busy, sizeof heap->busy, 1, "busy of heap " + std::to_string(i));
            ignore(heap, sizeof *heap); // its counts
        }
        ignore(&m.meta, sizeof m.meta);
        ignore(settings_values, sizeof settings_values);
        static Directory *directory;
        directory = this;
        model_ignored([](volatile void *at, size_t bytes) { directory->ignore(at, bytes); });
        data(&shared_, sizeof shared_);
        has_fork_handler = true;
    }

    void has_memory_for(size_t heaps) { most_ = heaps; }

    static Directory &current() { return static_cast<Directory &>(Checker::current()); }

    // Calls that the box makes.
    size_t claim() {
        return step("claims a heap's memory", [this] {
            return shared_.claimed == most_ ? uint64_t{ARENA_NONE} : shared_.claimed++;
        });
    }
    void start_heap(const fast_bin *bins) {
        size_t heap = number_of(bins);
        step("starts heap", [this, heap] {
            check_not_owned(heap, "started");
            shared_.started |= uint64_t{1} << heap;
            return uint64_t{heap};
        });
    }
    void flush_bin(const fast_bin *stack, unsigned bin) {
        if (bin != 1) {
            return; // one will do
        }
        size_t heap = number_of(stack);
        step("flushes heap", [this, heap] {
            check_not_owned(heap, "flushed");
            if ((shared_.started >> heap & 1) == 0) {
                note("a heap without pages is flushed");
            }
            if ((shared_.broken >> heap & 1) != 0) {
                note("a heap that is not whole is flushed");
            }
            return uint64_t{heap};
        });
    }
    void clean(size_t heap) {
        step("cleans heap", [this, heap] {
            check_not_owned(heap, "cleaned");
            shared_.started &= ~(uint64_t{1} << heap);
            return uint64_t{heap};
        });
    }
    unsigned make_key() {
        return static_cast<unsigned>(step("makes key", [this] {
            shared_.keys |= uint64_t{1} << shared_.next_key;
            return shared_.next_key++;
        }));
    }
    void delete_key(unsigned key) {
        step("deletes key", [this, key] {
            shared_.keys &= ~(uint64_t{1} << key);
            return uint64_t{key};
        });
    }
    void set_specific(unsigned key, const void *heap) {
        set_key_ = key;
        set_heap_ = heap;
    }

  protected:
    void perform(const Op &op) override {
        Own &mine = shared_.threads[running()];
        set_heap_ = nullptr;
        enter(mine);
        switch (op.kind) {
        case GET: {
            if (mine.ended != 0) {
                break;
            }
            thread_heap *heap = thread_heap_get();
            if (heap != nullptr && mine.heap == 0) {
                own(mine, heap);
            }
            break;
        }
        case EXIT:
            if (mine.heap == 0 || mine.ended != 0) {
                break;
            }
            model_exit(heap_of(mine));
            model_exit(heap_of(mine)); // in the next round
            mine.heap = 0;
            mine.ended = 1;
            break;
        case FLUSH_FREE:
            if (first()) {
                mine.flushing = 1;
            }
            thread_heap_flush_free();
            mine.flushing = 0;
            break;
        default:
            mine = {};
            break;
        }
    }

    std::string name_of(const Op &op) const override {
        const char *const names[] = {"gets a heap", "ends", "flushes free heaps", "starts"};
        return names[op.kind];
    }

    void after_fork() override {
        if (first()) {
            enter(shared_.threads[running()]);
        }
        thread_heap_after_fork();
    }

    void threads_are_gone() override {
        // A busy heap is not whole, unless this thread itself is working on it.
        const Own &mine = shared_.threads[running()];
        for (size_t i = 0; i < kHeaps; i++) {
            bool others = mine.flushing == 0;
            for (size_t t = 0; t < shared_.threads.size(); t++) {
                others |= t != running() && shared_.threads[t].heap == i + 1;
            }
            if (std::atomic_load(&memory().heap(i)->busy) != 0 && mine.heap != i + 1 && others) {
                shared_.broken |= uint64_t{1} << i;
            }
        }
        for (size_t t = 0; t < shared_.threads.size(); t++) {
            if (t != running()) {
                shared_.threads[t] = {};
            }
        }
    }

    void at_end(bool is_child) override {
        uint64_t owned = 0;
        for (const Own &each : shared_.threads) {
            owned |= each.heap == 0 ? 0 : uint64_t{1} << (each.heap - 1);
            if (each.heap != 0 && each.key + 1 != *vars_.key) {
                note("a thread's end will not be told");
            }
        }
        uint64_t free = 0;
        uint64_t all = 0;
        for (uint32_t id = 0; id < *vars_.made; id++) {
            if (vars_.heaps[id] == nullptr) {
                if (!is_child) {
                    note("a place in the directory is empty");
                }
                continue;
            }
            uint64_t bit = uint64_t{1} << number_of(vars_.heaps[id]);
            if ((all & bit) != 0) {
                note("a heap has two places");
            }
            all |= bit;
            free |= (*vars_.free >> id & 1) != 0 ? bit : 0;
        }
        if ((free & owned) != 0) {
            note("a heap is free and has an owner");
        }
        if (!is_child && (free | owned) != all) {
            note("a heap is lost");
        }
        if (!is_child && *vars_.idle != idle_ + __builtin_popcountll(free)) {
            note("the count of idle heaps is " + std::to_string(*vars_.idle));
        }
        if (free != 0 && *vars_.idle <= 0) {
            note("heaps are free, and nobody will look for them");
        }
        if (is_child && (free & shared_.broken) != 0) {
            note("a heap that is not whole is free in the child");
        }
        if ((shared_.keys & (shared_.keys - 1)) != 0 && !is_child) {
            note("a key is left over");
        }
    }

    std::string describe() const override {
        std::string text;
        for (size_t t = 0; t < threads(); t++) {
            const Own &own = shared_.threads[t];
            text += "thread " + std::to_string(t) +
                    (own.ended != 0  ? " has ended\n"
                     : own.heap == 0 ? " has no heap\n"
                                     : " has heap " + std::to_string(own.heap - 1) + "\n");
        }
        return text;
    }

  private:
    struct Own {
        uint64_t heap = 0; // its number + 1; 0: none
        uint64_t key = 0;
        uint64_t ended = 0;
        uint64_t flushing = 0; // 1: the thread flushes heaps without a thread
    };

    static size_t number_of(const void *heap) { return page_arena_slab_of(&memory().window, heap); }
    static thread_heap *heap_of(const Own &own) {
        return own.heap == 0 ? nullptr : memory().heap(own.heap - 1);
    }

    // Lets the box see what it left in the thread's TLS.
    static void enter(const Own &own) { model_set_thread(own.ended != 0 ? nullptr : heap_of(own)); }

    void check_not_owned(size_t heap, const char *what) {
        for (size_t t = 0; t < shared_.threads.size(); t++) {
            if (t != running() && shared_.threads[t].heap == heap + 1) {
                note(std::string("a heap that another thread has is ") + what);
            }
        }
    }

    void own(Own &mine, const thread_heap *heap) {
        size_t number = number_of(heap);
        check_not_owned(number, "adopted");
        if ((shared_.started >> number & 1) == 0) {
            note("a heap without its stacks is adopted");
        }
        if ((shared_.broken >> number & 1) != 0) {
            note("a heap that is not whole is adopted in the child");
        }
        if (set_heap_ != heap || (shared_.keys >> set_key_ & 1) == 0) {
            note("a thread's end will not be told");
        }
        for (uint32_t id = 0; id < kHeaps; id++) {
            if (vars_.heaps[id] == heap && (*vars_.free >> id & 1) != 0) {
                note("a heap that is free is adopted");
            }
        }
        mine.heap = number + 1;
        mine.key = set_key_;
    }

    const int32_t idle_;
    size_t most_ = kHeaps;
    model_directory vars_;
    struct {
        std::array<Own, 3> threads;
        uint64_t claimed, started; // heaps that have memory; heaps whose stacks were set up
        uint64_t broken;           // heaps that other threads left in the middle of something
        uint64_t keys, next_key;
    } shared_ = {};
    // Of the run in hand.
    unsigned set_key_ = 0;
    const void *set_heap_ = nullptr;
};

} // namespace

// Calls that the box makes.
int model_key_create(unsigned *key, void (*)(void *)) {
    *key = Directory::current().make_key();
    return 0;
}
int model_key_delete(unsigned key) {
    Directory::current().delete_key(key);
    return 0;
}
int model_set_specific(unsigned key, const void *value) {
    Directory::current().set_specific(key, value);
    return 0;
}
bool os_is_outside() {
    return false;
}
void os_thread_ends() {}
struct page_arena_known page_arena_known;
bool page_arena_find_place() {
    return true;
}
page_arena_window page_arena_work_out_window() {
    return memory().window;
}
size_t page_arena_claim(size_t, size_t, bool *zero) {
    *zero = true;
    return Directory::current().claim();
}
void page_arena_release(size_t, size_t, bool) {
    Directory::current().fail("memory of a heap is given back");
}
bool page_arena_clean(size_t from, size_t) {
    Directory::current().clean(from);
    return true;
}
void page_arena_count_sparse(ptrdiff_t) {}
size_t page_arena_mapped() {
    return memory().window.slabs;
}
char *page_arena_readable(size_t *length) {
    *length = 0;
    return nullptr;
}
void fast_cache_init(fast_bin *bins, void **, bool) {
    Directory::current().start_heap(bins);
}
void fast_cache_narrow(fast_bin *stack, void ***, void **, unsigned bin) {
    Directory::current().flush_bin(stack, bin);
}
bool fast_cache_widen(fast_bin *, void ***, void **, unsigned, fast_cache_width) {
    return false;
}
bool fast_cache_can_be_deep(unsigned) {
    return false;
}
void **fast_cache_detach(fast_bin *, void ***, unsigned) {
    return nullptr;
}
void fast_cache_settle(fast_bin *, void ***, void **) {}
unsigned fast_cache_held(const fast_bin *, void **const *, unsigned) {
    return 0;
}
void shared_pool_put(unsigned, void *const *, unsigned) {}
shared_pool_totals shared_pool_guess_totals() {
    return {};
}
const size_class_bin size_class_bins[SIZE_CLASS_BINS] = {};
void size_class_fill_table(uint8_t *) {}
void size_class_fill_sizes(uint8_t *) {}

namespace {

void expect_sound(Directory &directory, size_t least_states) {
    ASSERT_TRUE(directory.check()) << directory.report();
    EXPECT_GE(directory.states(), least_states);
    EXPECT_GE(directory.ends(), 1u);
    printf("%zu states, %zu ends, %zu forks\n", directory.states(), directory.ends(),
           directory.children());
}

constexpr int32_t kManyIdle = 16; // heaps that end now lose their pages

TEST(ThreadHeapModel, TwoGetTheirHeaps) {
    Directory directory({{kGet}, {kGet}});
    expect_sound(directory, 100);
}

TEST(ThreadHeapModel, ThreeGetTheirHeaps) {
    Directory directory({{kGet}, {kGet}, {kGet}});
    expect_sound(directory, 1000);
}

TEST(ThreadHeapModel, TwoStartAndThereIsMemoryForOne) {
    Directory directory({{kGet, kGet}, {kGet, kExit}});
    directory.has_memory_for(1);
    expect_sound(directory, 100);
}

TEST(ThreadHeapModel, OneEndsWhileTwoStart) {
    Directory directory({{kExit}, {kGet}, {kGet}});
    directory.before(0, kGet);
    expect_sound(directory, 1000);
}

TEST(ThreadHeapModel, OneEndsWhileTwoStartAndHeapsLoseTheirPages) {
    Directory directory({{kExit}, {kGet}, {kGet}}, kManyIdle);
    directory.before(0, kGet);
    expect_sound(directory, 1000);
}

TEST(ThreadHeapModel, TwoEndAndStartAgain) {
    Directory directory({{kExit, kStart, kGet}, {kExit, kStart, kGet}});
    directory.before(0, kGet);
    directory.before(1, kGet);
    expect_sound(directory, 1000);
}

TEST(ThreadHeapModel, TwoEndAndStartAgainAndHeapsLoseTheirPages) {
    Directory directory({{kExit, kStart, kGet}, {kExit, kStart, kGet}}, kManyIdle);
    directory.before(0, kGet);
    directory.before(1, kGet);
    expect_sound(directory, 1000);
}

TEST(ThreadHeapModel, FreeHeapsAreFlushedWhileOneStarts) {
    Directory directory({{kFlushFree}, {kGet, kExit}});
    directory.before(0, kGet);
    directory.before(0, kExit);
    expect_sound(directory, 500);
}

TEST(ThreadHeapModel, TwoFlushFreeHeapsWhileOneEnds) {
    Directory directory({{kFlushFree}, {kFlushFree}, {kExit}}, kManyIdle);
    directory.before(2, kGet);
    expect_sound(directory, 50);
}

TEST(ThreadHeapModel, ColdHeapsAreFlushedWhileOneStarts) {
    Directory directory({{kFlushFree}, {kGet, kExit}}, kManyIdle);
    directory.before(0, kGet);
    directory.before(0, kExit);
    expect_sound(directory, 50);
}

// A child's thread goes on, ends, and is followed by another one.
const Program kChild = {kGet, kFlushFree, kExit, kStart, kGet};

TEST(ThreadHeapModel, AChildOfTwoThatGetTheirHeaps) {
    Directory directory({{kGet}, {kGet}});
    directory.with_forks(kChild);
    expect_sound(directory, 100);
}

TEST(ThreadHeapModel, AChildOfOneThatEndsAndOneThatStarts) {
    Directory directory({{kExit}, {kGet}});
    directory.before(0, kGet);
    directory.with_forks(kChild);
    expect_sound(directory, 100);
}

TEST(ThreadHeapModel, AChildOfOneThatEndsAndOneThatStartsAndHeapsLoseTheirPages) {
    Directory directory({{kExit}, {kGet}}, kManyIdle);
    directory.before(0, kGet);
    directory.with_forks(kChild);
    expect_sound(directory, 100);
}

TEST(ThreadHeapModel, AChildWhileFreeHeapsAreFlushed) {
    Directory directory({{kFlushFree}, {kGet, kExit}});
    directory.before(0, kGet);
    directory.before(0, kExit);
    directory.with_forks(kChild);
    expect_sound(directory, 500);
}

TEST(ThreadHeapModel, AChildWhileColdHeapsAreFlushed) {
    Directory directory({{kFlushFree}, {kGet, kExit}}, kManyIdle);
    directory.before(0, kGet);
    directory.before(0, kExit);
    directory.with_forks(kChild);
    expect_sound(directory, 500);
}

} // namespace
