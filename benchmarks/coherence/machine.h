// SPDX-License-Identifier: Apache-2.0
// machine: virtual cores that run threads in turns, one memory access after the other in the order
// of their clocks.
//
// One thread of the kernel does all of the work. Each virtual thread is a stack of its own and the
// thread pointer of a real thread that sleeps, so that thread-local variables, keys and
// pthread_self() are as in a program of as many threads. A core's clock advances by what Model says
// each access takes; before an access is made, the machine goes on with the core whose clock is the
// least. So the interleaving is a function of the program, the costs and the seed.
#ifndef HAKMEM_BENCHMARKS_COHERENCE_MACHINE_H
#define HAKMEM_BENCHMARKS_COHERENCE_MACHINE_H

#include "benchmarks/coherence/model.h"

#include <pthread.h>

#include <functional>
#include <map>
#include <vector>

namespace coherence {

// What a core is doing when it makes an access.
enum Kind { kProgram, kMalloc, kFree, kExit, kKinds };

// What accesses came to, of one kind or of one place in the code.
struct Counts {
    uint64_t accesses = 0, cold = 0, fetches = 0, upgrades = 0, invalidations = 0;
    uint64_t failed = 0; // compare-and-swaps that changed nothing
    uint64_t calls = 0;  // of the kernel
    uint64_t wait = 0;   // ps, of transfers
    uint64_t transfers() const { return fetches + upgrades; }
    void add(const Counts &more);
};

class Machine {
  public:
    struct Setup {
        unsigned cores = 2;
        uint64_t seed = 1;
        Costs costs;
        // What a core's next thread does; called until none_left says that the core is done.
        std::function<void(unsigned core)> thread;
        std::function<bool(unsigned core)> none_left;
    };

    explicit Machine(const Setup &setup);
    ~Machine();
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;

    // Runs all cores until none has a thread left.
    void run();

    // --- For the program that runs on a core

    // The program itself reads or writes `size` bytes.
    void touch(void *at, size_t size, bool write);
    // Waits until all cores that have threads left are there, and makes their clocks one.
    void barrier();
    // From now on accesses count; what was counted is forgotten. By one core, behind a barrier.
    void measure() { counts_ = {}, sites_ = {}, lines_ = {}, measuring_ = true; }
    void stop_measuring() { measuring_ = false; }
    void kind(Kind kind) { cores_[current_].kind = kind; }
    uint64_t clock() const { return cores_[current_].clock; }
    uint64_t random();
    // A time that the program spends without memory.
    void pass(uint64_t ps);

    // --- For the instrumented code. `pc` is the place in the code.

    void access(uintptr_t at, size_t size, Access access, uintptr_t pc);
    void failed(uintptr_t pc);
    // A system call. Those that change mappings wait for each other, as for the kernel's lock.
    void call(bool changes_mappings);
    void forget(void *at, size_t size) { model_.forget(reinterpret_cast<uintptr_t>(at), size); }
    void at_exit(void (*function)(void *), void *argument);
    void add_key(pthread_key_t key, void (*destructor)(void *));
    bool inside() const { return running_; }
    unsigned cores() const { return setup_.cores; }
    unsigned core() const { return current_; }

    // --- What it came to

    const Counts &counts(Kind kind) const { return counts_.of[kind]; }
    const std::map<uintptr_t, Counts> &sites() const { return sites_; }
    // Of each line that moved: how often, by the place in the code.
    const std::map<uintptr_t, std::map<uintptr_t, uint64_t>> &lines() const { return lines_; }

  private:
    struct Exit {
        void (*function)(void *);
        void *argument;
    };
    struct Core {
        uint64_t clock = 0;
        Kind kind = kProgram;
        bool running = false; // has a thread
        bool ended = false;   // the thread has come to its end
        void *stack_pointer = nullptr;
        uintptr_t thread_pointer = 0;
        pthread_t real{};
        std::vector<Exit> exits;
    };
    struct Waiting {
        uint64_t clock;
        unsigned core;
        bool operator<(const Waiting &other) const {
            return clock != other.clock ? clock > other.clock : core > other.core;
        }
    };
    struct AllCounts {
        Counts of[kKinds];
    };
    struct Sleeper;

    static void *sleep(void *sleeper);
    static void enter();
    void start(unsigned core);
    void finish(unsigned core);
    void run_thread();
    void destructors();
    void ready(unsigned core);
    void turn();
    void leave();
    void enter_core(unsigned core, void **save);
    void count(const Outcome &outcome, uint64_t since, uintptr_t line, uintptr_t pc);

    Setup setup_;
    Model model_;
    std::vector<Core> cores_;
    std::vector<Sleeper *> sleepers_;
    std::vector<Waiting> waiting_; // a heap
    std::vector<unsigned> at_barrier_;
    unsigned left_ = 0; // cores with threads left
    unsigned current_ = 0;
    bool running_ = false; // a core's thread runs, not the machine
    bool measuring_ = false;
    uint64_t random_;
    uint64_t mappings_busy_ = 0;
    char *stacks_;
    void *main_stack_pointer_ = nullptr;
    uintptr_t main_thread_pointer_;
    std::map<pthread_key_t, void (*)(void *)> keys_;
    AllCounts counts_;
    std::map<uintptr_t, Counts> sites_;
    std::map<uintptr_t, std::map<uintptr_t, uint64_t>> lines_;
};

// The machine that runs now, for the instrumented code; NULL while there is none.
extern Machine *machine;

} // namespace coherence

#endif
