// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/coherence/machine.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <asm/prctl.h>
#include <semaphore.h>

// Keeps the registers that a call preserves on the stack, and the stack's pointer at *save; goes on
// where the other stack was left.
extern "C" void coherence_switch(void **save, void *stack_pointer);
__asm__(".pushsection .text\n"
        ".globl coherence_switch\n"
        ".type coherence_switch, @function\n"
        "coherence_switch:\n"
        "push %rbp\n"
        "push %rbx\n"
        "push %r12\n"
        "push %r13\n"
        "push %r14\n"
        "push %r15\n"
        "mov %rsp, (%rdi)\n"
        "mov %rsi, %rsp\n"
        "pop %r15\n"
        "pop %r14\n"
        "pop %r13\n"
        "pop %r12\n"
        "pop %rbx\n"
        "pop %rbp\n"
        "ret\n"
        ".size coherence_switch, . - coherence_switch\n"
        ".popsection");

namespace coherence {

namespace {

constexpr size_t kStack = 256 << 10;
constexpr int kDestructorRounds = 4;       // PTHREAD_DESTRUCTOR_ITERATIONS of glibc
constexpr uint64_t kMappingCall = 1000000; // ps, in the kernel
constexpr uint64_t kOtherCall = 200000;
// A core whose clock is no more than this behind the least goes on: less switching.
constexpr uint64_t kSlack = 3000;

[[noreturn]] void die(const char *why) {
    std::fprintf(stderr, "coherence: %s\n", why);
    std::exit(1);
}

void set_thread_pointer(uintptr_t to) {
    constexpr unsigned long kFsgsbase = 2; // of AT_HWCAP2
    static const bool direct = (getauxval(AT_HWCAP2) & kFsgsbase) != 0;
    if (direct) {
        __asm__ volatile("wrfsbase %0" : : "r"(to) : "memory");
    } else {
        syscall(SYS_arch_prctl, ARCH_SET_FS, to);
    }
}

} // namespace

Machine *machine;

void Counts::add(const Counts &more) {
    accesses += more.accesses;
    cold += more.cold;
    fetches += more.fetches;
    upgrades += more.upgrades;
    invalidations += more.invalidations;
    failed += more.failed;
    calls += more.calls;
    wait += more.wait;
}

// The real thread behind a virtual one: it lends its thread pointer.
struct Machine::Sleeper {
    sem_t ready, end;
    uintptr_t thread_pointer;
};

void *Machine::sleep(void *argument) {
    auto *sleeper = static_cast<Sleeper *>(argument);
    sleeper->thread_pointer = reinterpret_cast<uintptr_t>(__builtin_thread_pointer());
    sem_post(&sleeper->ready);
    while (sem_wait(&sleeper->end) != 0) {
    }
    return nullptr;
}

Machine::Machine(const Setup &setup)
    : setup_(setup), model_(setup.costs), cores_(setup.cores), sleepers_(setup.cores),
      random_(setup.seed * UINT64_C(0x9e3779b97f4a7c15) | 1),
      main_thread_pointer_(reinterpret_cast<uintptr_t>(__builtin_thread_pointer())) {
    void *map = mmap(nullptr, kStack * setup.cores, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        die("no memory for stacks");
    }
    stacks_ = static_cast<char *>(map);
    waiting_.reserve(setup.cores);
    at_barrier_.reserve(setup.cores);
    machine = this;
}

Machine::~Machine() {
    machine = nullptr;
    munmap(stacks_, kStack * setup_.cores);
}

uint64_t Machine::random() {
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return random_ * UINT64_C(0x2545f4914f6cdd1d);
}

void Machine::enter() {
    machine->run_thread();
}

// A new thread for a core that has none.
void Machine::start(unsigned core) {
    Core &c = cores_[core];
    auto *sleeper = new Sleeper;
    sem_init(&sleeper->ready, 0, 0);
    sem_init(&sleeper->end, 0, 0);
    if (pthread_create(&c.real, nullptr, sleep, sleeper) != 0) {
        die("cannot start a thread");
    }
    while (sem_wait(&sleeper->ready) != 0) {
    }
    sleepers_[core] = sleeper;
    c.thread_pointer = sleeper->thread_pointer;
    c.running = true;
    c.ended = false;
    // What coherence_switch() pops: six registers and where to go on, with the stack as at the
    // begin of a function.
    auto **top = reinterpret_cast<void **>(stacks_ + kStack * (core + 1)) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void *>(enter);
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    c.stack_pointer = top;
    ready(core);
}

void Machine::finish(unsigned core) {
    sem_post(&sleepers_[core]->end);
    pthread_join(cores_[core].real, nullptr);
    delete sleepers_[core];
    cores_[core].running = false;
}

void Machine::run_thread() {
    const unsigned core = current_;
    setup_.thread(core);
    kind(kExit);
    destructors();
    kind(kProgram);
    cores_[core].ended = true;
    leave();
}

// As libc has it at the end of a thread.
void Machine::destructors() {
    std::vector<Exit> &exits = cores_[current_].exits;
    while (!exits.empty()) {
        const Exit last = exits.back();
        exits.pop_back();
        last.function(last.argument);
    }
    bool again = true;
    for (int i = 0; again && i < kDestructorRounds; i++) {
        again = false;
        const auto keys = keys_;
        for (const auto &[key, destructor] : keys) {
            void *value = pthread_getspecific(key);
            if (value != nullptr && destructor != nullptr) {
                pthread_setspecific(key, nullptr);
                destructor(value);
                again = true;
            }
        }
    }
}

void Machine::ready(unsigned core) {
    waiting_.push_back({cores_[core].clock, core});
    std::push_heap(waiting_.begin(), waiting_.end());
}

void Machine::enter_core(unsigned core, void **save) {
    current_ = core;
    set_thread_pointer(cores_[core].thread_pointer);
    coherence_switch(save, cores_[core].stack_pointer);
}

// Back to the machine, for good or until the barrier opens.
void Machine::leave() {
    Core &c = cores_[current_];
    set_thread_pointer(main_thread_pointer_);
    coherence_switch(&c.stack_pointer, main_stack_pointer_);
}

// Goes on with the core that is the farthest behind.
void Machine::turn() {
    Core &c = cores_[current_];
    if (waiting_.empty() || c.clock <= waiting_.front().clock + kSlack) {
        return;
    }
    const unsigned next = waiting_.front().core;
    std::pop_heap(waiting_.begin(), waiting_.end());
    waiting_.back() = {c.clock, current_};
    std::push_heap(waiting_.begin(), waiting_.end());
    enter_core(next, &c.stack_pointer);
}

void Machine::run() {
    left_ = setup_.cores;
    for (unsigned core = 0; core < setup_.cores; core++) {
        start(core);
    }
    while (!waiting_.empty()) {
        const unsigned next = waiting_.front().core;
        std::pop_heap(waiting_.begin(), waiting_.end());
        waiting_.pop_back();
        running_ = true;
        enter_core(next, &main_stack_pointer_);
        running_ = false;
        const unsigned core = current_;
        if (cores_[core].ended) {
            finish(core);
            if (setup_.none_left(core)) {
                left_--;
            } else {
                start(core);
            }
        }
        if (left_ > 0 && at_barrier_.size() == left_) {
            uint64_t last = 0;
            for (const unsigned c : at_barrier_) {
                last = std::max(last, cores_[c].clock);
            }
            for (const unsigned c : at_barrier_) {
                cores_[c].clock = last;
                ready(c);
            }
            at_barrier_.clear();
        }
    }
    if (left_ > 0) {
        die("cores wait for each other for ever");
    }
}

void Machine::barrier() {
    at_barrier_.push_back(current_);
    leave();
}

void Machine::pass(uint64_t ps) {
    cores_[current_].clock += ps;
    turn();
}

void Machine::count(const Outcome &outcome, uint64_t since, uintptr_t line, uintptr_t pc) {
    Counts more;
    more.accesses = 1;
    more.cold = outcome.cold;
    more.fetches = outcome.fetch;
    more.upgrades = outcome.upgrade;
    more.invalidations = outcome.invalidations;
    if (outcome.transfer()) {
        more.wait = outcome.done - since;
        sites_[pc].add(more);
        lines_[line][pc]++;
    }
    counts_.of[cores_[current_].kind].add(more);
}

void Machine::access(uintptr_t at, size_t size, Access access, uintptr_t pc) {
    for (uintptr_t line = at & ~(kLine - 1); line < at + size; line += kLine) {
        Core &c = cores_[current_];
        const uint64_t since = c.clock;
        c.clock = model_.queue(current_, line, access, since);
        if (c.clock != since) {
            turn();
        }
        const Outcome outcome = model_.access(current_, line, access, c.clock);
        if (measuring_) {
            count(outcome, since, line, pc);
        }
        c.clock = outcome.done;
        turn();
    }
}

void Machine::failed(uintptr_t pc) {
    if (measuring_) {
        counts_.of[cores_[current_].kind].failed++;
        sites_[pc].failed++;
    }
}

void Machine::call(bool changes_mappings) {
    Core &c = cores_[current_];
    if (measuring_) {
        counts_.of[c.kind].calls++;
    }
    if (changes_mappings) {
        c.clock = mappings_busy_ = std::max(c.clock, mappings_busy_) + kMappingCall;
    } else {
        c.clock += kOtherCall;
    }
    turn();
}

void Machine::touch(void *at, size_t size, bool write) {
    access(reinterpret_cast<uintptr_t>(at), size, write ? Access::kWrite : Access::kRead, 0);
}

void Machine::at_exit(void (*function)(void *), void *argument) {
    cores_[current_].exits.push_back({function, argument});
}

void Machine::add_key(pthread_key_t key, void (*destructor)(void *)) {
    keys_[key] = destructor;
}

} // namespace coherence
