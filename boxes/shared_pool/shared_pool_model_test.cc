// Model checking of the pool's lock-free core: every interleaving of two or three threads that
// take, put and purge blocks of one or two slabs, with each atomic operation one step.
//
// What runs is the pool's own source (shared_pool_model.c), not a copy of its logic. Its atomic
// variables are cells of a small state, and each of its atomic operations comes back here. A thread
// that is to take its next step runs its operation from the start, gets the values that it got the
// last times, does one step on the cells, and is left with longjmp() before the one after it. So a
// thread's local state is the list of values it has got, states can be compared and copied, and a
// search through all states that can be reached is all there is to it.
#include "boxes/shared_pool/shared_pool.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/shared_pool/shared_pool_model.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

#include <gtest/gtest.h>

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

constexpr size_t kSlabs = 2;
constexpr size_t kWords = 2; // of a slab's bitmap, at most
constexpr size_t kMostThreads = 3;
constexpr size_t kMostSteps = 72; // of one operation
constexpr size_t kMostWay = 256;  // steps of all threads

// Two bins of two blocks each, with the bitmaps at the same place, and one of two words.
const unsigned kX = size_class_bin_of(32768);
const unsigned kY = size_class_bin_of(27648);
const unsigned kWide = size_class_bin_of(512);

using Mask = std::array<uint64_t, kWords>;

struct Op {
    enum Kind { TAKE, PUT, PUT_ONE, PURGE } kind;
    unsigned bin = 0;  // TAKE
    unsigned want = 0; // TAKE
};

Op take(unsigned bin, unsigned want = 1) {
    return {Op::TAKE, bin, want};
}
constexpr Op kPut = {Op::PUT};        // all that the thread holds
constexpr Op kPutOne = {Op::PUT_ONE}; // the lowest of them
constexpr Op kPurge = {Op::PURGE};

// The cells: all that threads share.
enum Cell {
    BITS, // kSlabs * kWords
    KIND = BITS + kSlabs * kWords,
    BIN = KIND + kSlabs,
    CLEAN = BIN + kSlabs,
    LISTED = CLEAN + kSlabs, // by bin: kX, kY, kWide
    SUMMARY = LISTED + 3,    // of a group
    REGION = SUMMARY + 3,
    MAP = REGION + 3,     // the page map
    AVAIL = MAP + kSlabs, // the arena: bit s is slab s
    CELLS,
};

struct Thread {
    uint32_t next = 0;  // operation of its program
    uint32_t steps = 0; // done in it
    shared_pool_hint hint = ARENA_NONE;
    std::array<Mask, kSlabs> held = {};
    std::array<uint32_t, kSlabs> bin = {}; // of the blocks held
    // Being put back: the thread's until the step that sets their bits, another's afterwards.
    Mask putting = {};
    size_t putting_slab = 0;
    // What the steps have got. Last, as only the first `steps` count.
    std::array<uint64_t, kMostSteps> got = {};
};

struct State {
    std::array<uint64_t, CELLS> cells = {};
    std::array<Thread, kMostThreads> threads;
    // How it was reached; not part of what it is.
    std::array<char, kMostWay> way = {};
    size_t length = 0;

    // 128 bits that stand for the state: two products of other factors, over 8 bytes at a time.
    using Key = std::pair<uint64_t, uint64_t>;
    Key key() const {
        Key key = {0xcbf29ce484222325u, 0x9ae16a3b2f90404fu};
        auto add = [&key](const void *data, size_t bytes) {
            for (size_t i = 0; i < bytes; i += 8) {
                uint64_t word;
                memcpy(&word, static_cast<const char *>(data) + i, 8);
                key.first = (key.first ^ word) * 0xff51afd7ed558ccdu;
                key.first ^= key.first >> 32;
                key.second = (key.second ^ word) * 0x9e3779b97f4a7c15u;
                key.second ^= key.second >> 29;
            }
        };
        add(cells.data(), sizeof cells);
        for (const Thread &thread : threads) {
            add(&thread, offsetof(Thread, got) + thread.steps * sizeof thread.got[0]);
        }
        return key;
    }
    struct Hash {
        size_t operator()(const Key &key) const { return key.first; }
    };
};
static_assert(offsetof(Thread, got) == 4 * 2 + 8 + 16 * kSlabs + 4 * kSlabs + 16 + 8,
              "no padding, which would be hashed");

unsigned bin_index(unsigned bin) {
    return bin == kX ? 0 : bin == kY ? 1 : 2;
}

// What the pool sees as memory: addresses only.
struct Memory {
    page_arena_window window;
    page_arena_group group;
    page_arena_region region;
    alignas(HAK_PAGE) superslab meta;

    Memory() : group(), region(), meta() {
        void *base = mmap(nullptr, 2 * ARENA_SUPERSLAB, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        EXPECT_NE(base, MAP_FAILED);
        window.base = reinterpret_cast<char *>(
            hak_round_up(reinterpret_cast<uintptr_t>(base), ARENA_SUPERSLAB));
        window.slabs = ARENA_GROUP_SLABS;
        window.groups = &group;
        window.regions = &region;
        window.meta = reinterpret_cast<char *>(&meta);
    }
};

Memory &memory() {
    static Memory the_memory;
    return the_memory;
}

// The search, and what the hooks below need to know of it.
class Explorer {
  public:
    explicit Explorer(std::vector<std::vector<Op>> programs, size_t slabs, bool with_clean = false,
                      bool with_regions = false)
        : programs_(std::move(programs)), slabs_(slabs), with_clean_(with_clean),
          with_regions_(with_regions), cells_at_(find_cells(with_clean, with_regions)) {
        start_.cells[AVAIL] = (1u << slabs) - 1;
        memory();
    }

    // Lets thread `t` do `op` before the search begins.
    void before(size_t t, Op op) {
        current_ = this;
        state_ = start_;
        run_alone(t, op);
        start_ = state_;
    }

    // True if no interleaving breaks an invariant.
    testing::AssertionResult check() {
        current_ = this;
        std::vector<State> stack = {start_};
        std::unordered_set<State::Key, State::Hash> seen = {start_.key()};
        while (!stack.empty() && fault_.empty()) {
            State from = stack.back();
            stack.pop_back();
            bool ended = true;
            for (size_t t = 0; t < programs_.size() && fault_.empty(); t++) {
                if (from.threads[t].next == programs_[t].size()) {
                    continue;
                }
                ended = false;
                state_ = from;
                state_.way[state_.length++ % kMostWay] = static_cast<char>('0' + t);
                step(t, programs_[t][from.threads[t].next]);
                if (fault_.empty() && seen.insert(state_.key()).second) {
                    stack.push_back(state_);
                }
            }
            if (ended) {
                ends++;
                state_ = from;
                check_end();
            }
        }
        states = seen.size();
        return fault_.empty() ? testing::AssertionSuccess()
                              : testing::AssertionFailure() << fault_ << "\n"
                                                            << describe(state_);
    }

    size_t states = 0;
    size_t ends = 0;

    // The hooks.
    static Explorer &current() { return *current_; }

    uint64_t atomic(model_op op, const volatile void *at, size_t size, uint64_t a, uint64_t b) {
        int cell = cell_of(at);
        if (cell == kIgnored) {
            return 0;
        }
        if (cell == kOne) {
            return 1;
        }
        if (cell == kUnknown) {
            fail("an atomic variable that the model does not know");
        }
        return one_step([&] {
            uint64_t &value = state_.cells[static_cast<size_t>(cell)];
            uint64_t before = value;
            switch (op) {
            case MODEL_LOAD:
                break;
            case MODEL_STORE:
                value = a;
                before = 0; // has no result, which could tell states apart
                break;
            case MODEL_EXCHANGE:
                value = a;
                break;
            case MODEL_OR:
                value |= a;
                break;
            case MODEL_AND:
                value &= a;
                break;
            case MODEL_ADD:
                value += a;
                break;
            case MODEL_SUB:
                value -= a;
                break;
            case MODEL_CAS:
                value = value == a ? b : value;
                break;
            }
            if (size < 8) {
                value &= (uint64_t{1} << size * 8) - 1;
            }
            return before;
        });
    }

    size_t claim() {
        return one_step([&] {
            uint64_t avail = state_.cells[AVAIL];
            if (avail == 0) {
                return uint64_t{ARENA_NONE};
            }
            state_.cells[AVAIL] &= avail - 1;
            return static_cast<uint64_t>(__builtin_ctzll(avail));
        });
    }

    void release(size_t slab) {
        one_step([&] {
            if ((state_.cells[AVAIL] >> slab & 1) != 0) {
                note("a slab was released twice");
            }
            for (const Thread &thread : state_.threads) {
                if (thread.held[slab] != Mask{}) {
                    note("a slab was released while a block of it was out");
                }
            }
            if (bits(slab) != Mask{}) {
                note("a slab was released with blocks in its bitmap");
            }
            state_.cells[AVAIL] |= uint64_t{1} << slab;
            return uint64_t{0};
        });
    }

    void purge(const os_range *ranges, size_t count) {
        one_step([&] {
            for (size_t i = 0; i < count; i++) {
                auto from =
                    static_cast<size_t>(static_cast<char *>(ranges[i].at) - memory().window.base);
                check_no_live(from, from + ranges[i].size);
            }
            return uint64_t{0};
        });
    }

    [[noreturn]] void fail(const std::string &what) {
        note(what);
        longjmp(out_, 1);
    }

    size_t high() const { return slabs_; }

  private:
    enum { kUnknown = -1, kIgnored = -2, kOne = -3 };

    int cell_of(const volatile void *pointer) const {
        size_t offset =
            reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(&memory());
        size_t slab = reinterpret_cast<uintptr_t>(pointer) -
                      reinterpret_cast<uintptr_t>(memory().window.base);
        if (slab < kSlabs) {
            return static_cast<int>(MAP + slab);
        }
        if (offset >= sizeof(Memory)) {
            return model_is_counter(pointer) ? kIgnored : kUnknown;
        }
        return cells_at_[offset];
    }

    // By offset in Memory.
    std::vector<int8_t> find_cells(bool with_clean, bool with_regions) const {
        std::vector<int8_t> table(sizeof(Memory), kUnknown);
        auto place = [&table](const volatile void *pointer, size_t cell) {
            table[reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(&memory())] =
                static_cast<int8_t>(cell);
        };
        Memory &m = memory();
        for (size_t s = 0; s < kSlabs; s++) {
            slab &meta = m.meta.slabs[s];
            for (size_t w = 0; w < kWords; w++) {
                place(&meta.bits[w], BITS + s * kWords + w);
            }
            place(&meta.kind, KIND + s);
            place(&meta.bin, BIN + s);
            place(&meta.clean, with_clean ? CLEAN + s : static_cast<size_t>(kIgnored));
            place(&meta.active, static_cast<size_t>(kIgnored));     // a hint to the decay
            place(&m.meta.taker[s], static_cast<size_t>(kIgnored)); // a hint to takers
        }
        for (unsigned bin : {kX, kY, kWide}) {
            place(&m.meta.listed[bin], LISTED + bin_index(bin));
            place(&m.group.user[bin], SUMMARY + bin_index(bin));
            place(&m.region.user[bin],
                  with_regions ? REGION + bin_index(bin) : static_cast<size_t>(kOne));
        }
        place(&m.group.committed, static_cast<size_t>(kOne));
        return table;
    }

    // The value of the thread's next step: known from before, or found out by doing it.
    template <typename Do> uint64_t one_step(Do action) {
        Thread &thread = state_.threads[running_];
        if (replayed_ < thread.steps) {
            return thread.got[replayed_++];
        }
        if (stepped_) {
            longjmp(out_, 1);
        }
        if (thread.steps == kMostSteps) {
            fail("an operation that does not end");
        }
        stepped_ = true;
        uint64_t value = action();
        thread.got[thread.steps++] = value;
        replayed_ = thread.steps;
        return value;
    }

    // One step of thread `t`, which is at `op`. If that ends the operation, its results count.
    void step(size_t t, Op op) {
        running_ = t;
        replayed_ = 0;
        stepped_ = false;
        if (setjmp(out_) == 0) {
            perform(op);
            state_.threads[t].next++;
            state_.threads[t].steps = 0;
        }
    }

    void run_alone(size_t t, Op op) {
        uint32_t next = state_.threads[t].next;
        while (state_.threads[t].next == next && fault_.empty()) {
            step(t, op);
        }
        state_.threads[t].next = next;
    }

    // Runs to its end only when the last of its steps has been done; so what follows a call of the
    // pool here happens once.
    void perform(Op op) {
        Thread &thread = state_.threads[running_];
        switch (op.kind) {
        case Op::TAKE: {
            shared_pool_hint hint = thread.hint;
            unsigned count = shared_pool_take(op.bin, blocks_, op.want, &hint);
            thread.hint = hint;
            for (unsigned i = 0; i < count; i++) {
                own(op.bin, blocks_[i]);
            }
            break;
        }
        case Op::PUT:
        case Op::PUT_ONE: {
            if (thread.steps == 0) {
                start_put(thread, op.kind == Op::PUT);
            }
            unsigned bin = thread.bin[thread.putting_slab];
            unsigned count = 0;
            for (size_t block = 0; block < kWords * 64; block++) {
                if ((thread.putting[block / 64] >> block % 64 & 1) != 0) {
                    blocks_[count++] = block_at(thread.putting_slab, bin, block);
                }
            }
            if (count > 0) {
                shared_pool_put(bin, blocks_, count);
            }
            thread.putting = {};
            break;
        }
        case Op::PURGE: {
            shared_pool_walk walk = {};
            walk.all = true;
            shared_pool_purge(&walk, SIZE_MAX, SIZE_MAX);
            break;
        }
        }
    }

    // Chooses what a put is about: blocks of one slab, all or the lowest.
    static void start_put(Thread &thread, bool all) {
        for (size_t s = 0; s < kSlabs; s++) {
            if (thread.held[s] == Mask{}) {
                continue;
            }
            thread.putting_slab = s;
            thread.putting = thread.held[s];
            if (!all) {
                bool low = thread.held[s][0] != 0;
                thread.putting = {};
                thread.putting[low ? 0 : 1] =
                    thread.held[s][low ? 0 : 1] & -thread.held[s][low ? 0 : 1];
            }
            for (size_t w = 0; w < kWords; w++) {
                thread.held[s][w] &= ~thread.putting[w];
            }
            return;
        }
    }

    static char *block_at(size_t slab, unsigned bin, size_t block) {
        return static_cast<char *>(page_arena_address(&memory().window, slab)) +
               block * size_class_bins[bin].size;
    }
    static size_t block_of(unsigned bin, const void *ptr) {
        return reinterpret_cast<uintptr_t>(ptr) % ARENA_SLAB / size_class_bins[bin].size;
    }

    Mask bits(size_t slab) const {
        return {state_.cells[BITS + slab * kWords], state_.cells[BITS + slab * kWords + 1]};
    }

    void own(unsigned bin, const void *ptr) {
        size_t slab = page_arena_slab_of(&memory().window, ptr);
        size_t block = block_of(bin, ptr);
        if (slab >= slabs_ || ptr != block_at(slab, bin, block) ||
            block >= size_class_bins[bin].blocks) {
            note("not a block");
            return;
        }
        uint64_t bit = uint64_t{1} << block % 64;
        for (const Thread &thread : state_.threads) {
            if ((thread.held[slab][block / 64] & bit) != 0) {
                note("a block is owned twice");
            }
            if (thread.held[slab] != Mask{} && thread.bin[slab] != bin) {
                note("a slab serves two bins");
            }
        }
        if ((bits(slab)[block / 64] & bit) != 0) {
            note("a block that is out is in the bitmap");
        }
        if ((state_.cells[AVAIL] >> slab & 1) != 0) {
            note("a block of a slab that the arena holds");
        }
        Thread &thread = state_.threads[running_];
        thread.held[slab][block / 64] |= bit;
        thread.bin[slab] = bin;
    }

    // No block that a thread holds lies in these bytes.
    void check_no_live(size_t from, size_t to) {
        for (const Thread &thread : state_.threads) {
            for (size_t s = 0; s < kSlabs; s++) {
                for (size_t block = 0; block < kWords * 64; block++) {
                    size_t size = size_class_bins[thread.bin[s]].size;
                    size_t start = s * ARENA_SLAB + block * size;
                    if ((thread.held[s][block / 64] >> block % 64 & 1) != 0 && start < to &&
                        start + size > from) {
                        note("the pages of a live block were given back");
                    }
                }
            }
        }
    }

    // All threads have done their programs.
    void check_end() {
        check_rest("at the end");
        // And when everything has been put back, every slab goes back to the arena.
        for (size_t t = 0; t < programs_.size() && fault_.empty(); t++) {
            for (size_t s = 0; s < kSlabs; s++) {
                run_alone(t, kPut);
            }
        }
        check_rest("when all is put back");
        if (fault_.empty() && state_.cells[AVAIL] != (1u << slabs_) - 1) {
            note("a slab is lost");
        }
    }

    void check_rest(const char *when) {
        std::string at = std::string(" ") + when;
        for (size_t s = 0; s < slabs_; s++) {
            Mask out = {};
            unsigned bin = 0;
            for (const Thread &thread : state_.threads) {
                for (size_t w = 0; w < kWords; w++) {
                    out[w] |= thread.held[s][w];
                }
                bin = thread.held[s] != Mask{} ? thread.bin[s] : bin;
            }
            Mask in = bits(s);
            if ((state_.cells[AVAIL] >> s & 1) != 0) {
                if (state_.cells[KIND + s] != SLAB_NONE || in != Mask{} || out != Mask{}) {
                    note("a free slab has blocks" + at);
                }
                continue;
            }
            if (state_.cells[KIND + s] != SLAB_TINY || bin != state_.cells[BIN + s]) {
                note("a slab without a block that is out is in use" + at);
                continue;
            }
            for (unsigned w = 0; w < kWords; w++) {
                uint64_t full = w < size_class_bins[bin].words ? superslab_full_word(bin, w) : 0;
                if ((in[w] & out[w]) != 0) {
                    note("a block is both free and out" + at);
                }
                if ((in[w] | out[w]) != full) {
                    note("a block is lost" + at);
                }
            }
            if (in != Mask{} &&
                ((state_.cells[LISTED + bin_index(bin)] >> s & 1) == 0 ||
                 (state_.cells[SUMMARY + bin_index(bin)] & 1) == 0 ||
                 (with_regions_ && (state_.cells[REGION + bin_index(bin)] & 1) == 0))) {
                note("a slab with free blocks is not listed" + at);
            }
            if (with_clean_) {
                for (size_t page = 0; page < 16; page++) {
                    if ((state_.cells[CLEAN + s] >> page & 1) != 0) {
                        check_no_live(s * ARENA_SLAB + page * HAK_PAGE,
                                      s * ARENA_SLAB + (page + 1) * HAK_PAGE);
                    }
                }
            }
        }
    }

    void note(const std::string &what) {
        if (fault_.empty()) {
            fault_ = what;
        }
    }

    static std::string describe(const State &state) {
        static const char *const names[] = {"bits", "",        "",      "", "kind",   "",
                                            "bin",  "",        "clean", "", "listed", "",
                                            "",     "summary", "",      "", "avail"};
        std::string text =
            "steps, by thread: " + std::string(state.way.data(), state.length) + "\n";
        for (size_t i = 0; i < CELLS; i++) {
            text += std::string(names[i]) + " " + std::to_string(state.cells[i]) + " ";
        }
        for (const Thread &thread : state.threads) {
            text += "\nthread at operation " + std::to_string(thread.next) + " holds";
            for (const Mask &mask : thread.held) {
                text += " " + std::to_string(mask[0]) + "," + std::to_string(mask[1]);
            }
        }
        return text;
    }

    static Explorer *current_;

    const std::vector<std::vector<Op>> programs_;
    const size_t slabs_;
    const bool with_clean_;
    const bool with_regions_;
    const std::vector<int8_t> cells_at_;
    State start_;
    std::string fault_;
    // The run in hand.
    State state_;
    size_t running_ = 0;
    size_t replayed_ = 0;
    bool stepped_ = false;
    jmp_buf out_;
    void *blocks_[SHARED_POOL_BATCH_MOST];
};

Explorer *Explorer::current_ = nullptr;

} // namespace

// What the pool calls.
uint64_t model_atomic(model_op op, const volatile void *at, size_t size, uint64_t a, uint64_t b) {
    return Explorer::current().atomic(op, at, size, a, b);
}
bool page_arena_init() {
    return true;
}
page_arena_window page_arena_get_window() {
    return memory().window;
}
size_t page_arena_high() {
    return Explorer::current().high();
}
size_t page_arena_sparse() {
    return 0;
}

void page_arena_mark_dense(bool) {}

size_t page_arena_held() {
    return kSlabs;
}
size_t page_arena_claim(size_t slabs, size_t, bool *zero) {
    EXPECT_EQ(slabs, 1u);
    *zero = false;
    return Explorer::current().claim();
}
size_t page_arena_claim_filled(size_t slabs, size_t align, bool *zero) {
    return page_arena_claim(slabs, align, zero);
}
void page_arena_release(size_t from, size_t slabs, bool dirty) {
    EXPECT_EQ(slabs, 1u);
    EXPECT_TRUE(dirty);
    Explorer::current().release(from);
}
os_result os_purge_ranges(const os_range *ranges, size_t count) {
    Explorer::current().purge(ranges, count);
    return OS_OK;
}
void diag_misuse(const char *, const void *, const char *fault) {
    Explorer::current().fail(std::string("reported as misuse: ") + fault);
}
void diag_broken(const char *where, const char *what) {
    Explorer::current().fail(std::string("broken in ") + where + ": " + what);
}

namespace {

// Explores, and says how much there was: a search that found little would prove little.
void expect_sound(Explorer &explorer, size_t least_states) {
    EXPECT_TRUE(explorer.check());
    EXPECT_GE(explorer.states, least_states);
    EXPECT_GE(explorer.ends, 1u);
    std::string states = std::to_string(explorer.states);
    testing::Test::RecordProperty("states", states);
    printf("%s states, %zu ends\n", states.c_str(), explorer.ends);
}

TEST(SharedPoolModel, BinsAreWhatTheSearchesAreMadeFor) {
    EXPECT_NE(kX, kY);
    EXPECT_EQ(size_class_bins[kX].blocks, 2);
    EXPECT_EQ(size_class_bins[kY].blocks, 2);
    EXPECT_EQ(size_class_bins[kWide].blocks, 128);
}

// Those named DISABLED_ have more than five million states: shared_pool_model_long_test runs them.

TEST(SharedPoolModel, TwoTakeFromAFreshSlab) {
    Explorer explorer({{take(kX)}, {take(kX)}}, 1);
    expect_sound(explorer, 50);
}

TEST(SharedPoolModel, TwoTakeAndPutBackOneBlockEach) {
    Explorer explorer({{take(kX), kPut}, {take(kX), kPut}}, 1);
    expect_sound(explorer, 1000);
}

TEST(SharedPoolModel, TwoPutTheLastTwoBlocks) {
    Explorer explorer({{kPut}, {kPut}}, 1);
    explorer.before(0, take(kX));
    explorer.before(1, take(kX));
    expect_sound(explorer, 100);
}

TEST(SharedPoolModel, OnePutsTheLastBlockWhileAnotherTakes) {
    Explorer explorer({{kPut}, {take(kX)}}, 1);
    explorer.before(0, take(kX));
    expect_sound(explorer, 500);
}

// By its hint a slow taker finds a slab that is given back and serves another bin by then.
TEST(SharedPoolModel, TheSlabIsReformattedUnderASlowTaker) {
    Explorer explorer({{kPut, take(kY)}, {take(kX)}}, 1);
    explorer.before(0, take(kX));
    explorer.before(1, take(kX));
    explorer.before(1, kPut);
    expect_sound(explorer, 1000);
}

// Here the new bin finds no block while the slow taker holds it, and takes the slab off its list.
TEST(SharedPoolModel, TheSlowTakerPutsBackForTheNewBin) {
    Explorer explorer({{kPut, take(kY), take(kY)}, {take(kX)}}, 1);
    explorer.before(0, take(kX));
    explorer.before(1, take(kX));
    explorer.before(1, kPut);
    expect_sound(explorer, 5000);
}

TEST(SharedPoolModel, TheSlabIsReformattedTwice) {
    Explorer explorer({{kPut, take(kY), kPut, take(kX)}, {take(kX, 2)}}, 1);
    explorer.before(0, take(kX));
    explorer.before(1, take(kX));
    explorer.before(1, kPut);
    expect_sound(explorer, 50000);
}

TEST(SharedPoolModel, ThreeWithTheLastTwoBlocks) {
    Explorer explorer({{kPut}, {kPut}, {take(kX)}}, 1);
    explorer.before(0, take(kX));
    explorer.before(1, take(kX));
    expect_sound(explorer, 1000);
}

TEST(SharedPoolModel, DISABLED_ThreeAndAReformat) {
    Explorer explorer({{kPut, take(kY)}, {kPut}, {take(kX)}}, 1);
    explorer.before(0, take(kX));
    explorer.before(1, take(kX));
    explorer.before(2, take(kX)); // nothing; but its hint
    expect_sound(explorer, 1000);
}

TEST(SharedPoolModel, ThreeTakeAndPutOfAFreshSlab) {
    Explorer explorer({{take(kX), kPut}, {take(kX)}, {take(kX)}}, 1);
    expect_sound(explorer, 1000);
}

// Two slabs of a bin share a word of the list, and both a bit of its summary.
TEST(SharedPoolModel, TwoSlabsOfABinAndTheirList) {
    Explorer explorer({{kPutOne}, {kPutOne}, {take(kX)}}, 2);
    explorer.before(0, take(kX, 2));
    explorer.before(1, take(kX, 2));
    expect_sound(explorer, 300);
}

TEST(SharedPoolModel, TwoSlabsOneTakerOfBoth) {
    Explorer explorer({{kPutOne, take(kX)}, {take(kX, 2)}}, 2);
    explorer.before(0, take(kX, 2));
    explorer.before(1, take(kX, 2));
    explorer.before(1, kPutOne);
    expect_sound(explorer, 500);
}

TEST(SharedPoolModel, TwoSlabsOfTwoBinsChangePlaces) {
    Explorer explorer({{kPut, take(kY)}, {kPut, take(kX)}}, 2);
    explorer.before(0, take(kX, 2));
    explorer.before(1, take(kY, 2));
    expect_sound(explorer, 1000);
}

// The summary above the groups takes part: one slab is emptied while a block of it comes back.
TEST(SharedPoolModel, OnePutsWhileAnotherTakesTheLastBlockWithRegions) {
    Explorer explorer({{kPutOne}, {take(kX, 2)}}, 1, false, true);
    explorer.before(0, take(kX, 2));
    explorer.before(0, kPutOne);
    expect_sound(explorer, 300);
}

TEST(SharedPoolModel, TwoSlabsOneTakerOfBothWithRegions) {
    Explorer explorer({{kPutOne}, {take(kX, 2)}}, 2, false, true);
    explorer.before(0, take(kX, 2));
    explorer.before(1, take(kX, 2));
    explorer.before(1, kPutOne);
    expect_sound(explorer, 300);
}

// A bitmap of two words is reclaimed word by word.
TEST(SharedPoolModel, TwoWordsPutBack) {
    Explorer explorer({{kPut}, {kPut}}, 1);
    explorer.before(0, take(kWide, 64));
    explorer.before(1, take(kWide, 64));
    expect_sound(explorer, 100);
}

TEST(SharedPoolModel, DISABLED_TwoWordsPutBackWhileAnotherTakes) {
    Explorer explorer({{kPut}, {kPut}, {take(kWide, 64)}}, 1);
    explorer.before(0, take(kWide, 64));
    explorer.before(1, take(kWide, 64));
    expect_sound(explorer, 1000);
}

TEST(SharedPoolModel, TwoWordsAndASlowTakerOfAnotherBin) {
    Explorer explorer({{kPut, take(kX)}, {take(kWide, 100)}}, 1);
    explorer.before(0, take(kWide, 64));
    explorer.before(1, take(kWide, 64));
    explorer.before(1, kPut);
    expect_sound(explorer, 1000);
}

// The decay takes the blocks of a page out for a while. Its bits of pages are cells here, too.
TEST(SharedPoolModel, PurgeAndPut) {
    Explorer explorer({{kPut}, {kPurge}}, 1, true);
    explorer.before(0, take(kX));
    expect_sound(explorer, 100);
}

TEST(SharedPoolModel, PurgeAndTake) {
    Explorer explorer({{take(kX)}, {kPurge}}, 1, true);
    explorer.before(0, take(kX));
    expect_sound(explorer, 100);
}

TEST(SharedPoolModel, PurgeAndReformat) {
    Explorer explorer({{kPut, take(kY)}, {kPurge}}, 1, true);
    explorer.before(0, take(kX));
    expect_sound(explorer, 1000);
}

// What is a page without a live block to the old bin holds one of the new bin.
TEST(SharedPoolModel, PurgeByTheOldBin) {
    Explorer explorer({{kPut, take(kY, 2), kPutOne}, {kPurge}}, 1, true);
    explorer.before(0, take(kX));
    expect_sound(explorer, 5000);
}

TEST(SharedPoolModel, DISABLED_TwoPurgesAndATaker) {
    Explorer explorer({{kPurge}, {kPurge}, {take(kX), kPut}}, 1, true);
    explorer.before(0, take(kX));
    expect_sound(explorer, 1000);
}

TEST(SharedPoolModel, DISABLED_PurgePutAndTake) {
    Explorer explorer({{kPut}, {take(kX)}, {kPurge}}, 1, true);
    explorer.before(0, take(kX));
    expect_sound(explorer, 1000);
}

} // namespace
