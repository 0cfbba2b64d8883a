// SPDX-License-Identifier: Apache-2.0
// model_checker: tries every interleaving of a few threads that run lock-free code, each of its
// atomic operations being one step.
//
// What runs is the code's own source, compiled with atomics.h, and not a copy of its logic. Its
// atomic variables stand where they always do; those in memory that the subject has named are the
// model's cells. A state is a copy of the cells, of the subject's own data, and for each thread of
// the values that its unfinished operation has got. To take its next step a thread runs its
// operation from the start, gets the values that it got the last times, does one step on the cells,
// and is left with longjmp() before the one after it. So states can be compared and copied, and a
// search through all states that can be reached is all there is to it.
//
// A state is remembered by 64 bits of hash: of n states one is taken for another, and left out,
// with a probability of n^2 / 2^65, which is one in a million for six million.
//
// For tests. One search at a time in a process.
#ifndef HAKMEM_TOOLS_MODEL_CHECKER_MODEL_CHECKER_H
#define HAKMEM_TOOLS_MODEL_CHECKER_MODEL_CHECKER_H

#include "tools/model_checker/step.h"

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace model {

// An operation of a thread. What the numbers mean is the subject's.
struct Op {
    int kind = 0;
    unsigned a = 0;
    unsigned b = 0;
};
using Program = std::vector<Op>;

// The states that have been seen: a hash set of numbers without anything around them.
class Seen {
  public:
    Seen() : table_(1 << 12) {}
    bool insert(uint64_t key); // false if it was there
    size_t size() const { return size_; }

  private:
    std::vector<uint64_t> table_; // 0: a free place
    size_t size_ = 0;
};

// A search; the subject that it is about derives from it.
class Checker {
  public:
    explicit Checker(std::vector<Program> programs);
    virtual ~Checker();
    Checker(const Checker &) = delete;
    Checker &operator=(const Checker &) = delete;

    // Lets thread `t` do `op` before the search begins.
    void before(size_t t, Op op);

    // From each state on, the process may also fork, in each thread in turn: in the child that
    // thread ends the operation it is at (after_fork() comes in between), and goes on with
    // `survivor` instead of the rest of its program; the others are gone.
    void with_forks(Program survivor);

    // True if no interleaving has a fault.
    bool check();

    // What was found, with the steps that lead to it; empty after a search without a fault.
    const std::string &report() const { return report_; }

    size_t states() const { return states_; }
    size_t ends() const { return ends_; }      // states in which all threads are done
    size_t children() const { return forks_; } // forks tried

    // For the hooks.
    static Checker &current() { return *current_; }
    uint64_t atomic(model_op op, volatile void *at, size_t size, uint64_t a, uint64_t b);

    // A fault: the search ends. note() returns, fail() leaves the operation. The first one counts.
    void note(const std::string &what);
    [[noreturn]] void fail(std::string what);

    // A step that is not an atomic operation of the source, such as a call of what is not part of
    // the model. `action` returns the step's value, which is the only thing to depend on.
    template <typename Action> uint64_t step(const char *name, Action action) {
        uint64_t value;
        if (!begin_step(&value)) {
            value = action();
            end_step(value);
            trace_step(name, value);
        }
        return value;
    }

  protected:
    // To be called by the subject's constructor. `count` variables of `each` bytes become cells
    // when they are first used; `name` is for the report. Others can be ignored: they always read
    // as `value`, and take no step.
    void cells(volatile const void *at, size_t each, size_t count, std::string name);
    void ignore(volatile const void *at, size_t bytes, uint64_t value = 0);
    // The subject's own data, which is part of the state: without padding, or zero there. A
    // multiple of 8 bytes.
    void data(void *at, size_t bytes);

    // What thread running() does. It may change the subject's data only within step(), when first()
    // is true, and behind its last step.
    virtual void perform(const Op &op) = 0;
    virtual std::string name_of(const Op &op) const = 0;
    // All threads are done with their programs; `forked`: it is a child, and has one thread.
    virtual void at_end(bool forked) = 0;
    // In a child, what a handler of fork() does, in the middle of what thread running() is doing
    // or, if first() is true, before it. Only if has_fork_handler.
    virtual void after_fork() {}
    // In a child, before all else: threads are gone.
    virtual void threads_are_gone() {}
    // The subject's data, for the report.
    virtual std::string describe() const { return ""; }

    bool has_fork_handler = false;

    size_t running() const { return running_; }
    bool first() const { return threads_[running_].steps == 0; }
    bool alive(size_t t) const { return threads_[t].alive; }
    bool forked() const { return forked_; }
    bool is_survivors() const; // the operation at hand was begun in the child
    bool faulty() const { return !fault_.empty(); }
    size_t threads() const { return programs_.size(); }
    // Lets thread `t` do all of `op` now: for at_end().
    void run_alone(size_t t, Op op);

  private:
    static constexpr size_t kMostSteps = 1000; // of one operation
    static constexpr uint32_t kNever = UINT32_MAX;
    static constexpr int kUnknown = -1; // no cell; else -2 - i is ignored_[i]

    struct Cell {
        volatile void *at;
        size_t size;
        uint64_t initial;
    };
    struct Region {
        uintptr_t at;
        size_t each, count;
        std::string name;
    };
    struct Ignored {
        uintptr_t at;
        size_t bytes;
        uint64_t value;
    };
    struct Data {
        char *at;
        size_t bytes;
    };
    struct Thread {
        bool alive = true;
        uint32_t next = 0;             // operation of its program
        uint32_t steps = 0;            // done in it
        uint32_t interrupted = kNever; // step of it before which the handler of a fork runs
        uint64_t got[kMostSteps];
    };

    const Op &op_of(size_t t) const;
    bool is_done(size_t t) const;
    bool take_step(size_t t, const Op &op); // true if that ended the operation
    void fork_in(size_t t);
    bool begin_step(uint64_t *value);
    void end_step(uint64_t value);
    void trace_step(const char *name, uint64_t value);
    void trace(const std::string &what);
    int find_cell(volatile void *at, size_t size);
    int look_up(volatile void *at, size_t size);
    std::string name_at(volatile const void *at) const;
    // A state as words, and how it was reached.
    struct Step {
        uint32_t depth = 0;    // steps from the start
        uint32_t switches = 0; // of them, by another thread than the one before
        char by = 0;           // the last one
    };
    void save(std::vector<uint64_t> *to) const;
    void load(const std::vector<uint64_t> &from);
    uint64_t key(const std::vector<uint64_t> &state) const;
    bool search(uint32_t most_switches);
    void move(char by);
    void write_report(const std::string &fault, const std::string &way);

    static Checker *current_;

    const std::vector<Program> programs_;
    Program survivor_;
    bool with_forks_ = false;
    std::vector<Region> regions_;
    std::vector<Ignored> ignored_;
    std::vector<Data> data_;
    std::vector<Cell> cells_;
    std::vector<std::pair<uintptr_t, int>> index_; // of cells, by a hash of their address
    size_t index_used_ = 0;
    Seen seen_;
    size_t states_ = 0;
    size_t ends_ = 0;
    size_t forks_ = 0;
    std::string fault_;
    std::string report_;
    // The state in hand, with the cells and the data.
    std::vector<Thread> threads_;
    bool forked_ = false;
    // The run in hand.
    size_t running_ = 0;
    uint32_t replayed_ = 0;
    bool stepped_ = false;
    bool alone_ = false;   // no other thread runs until the operation ends, nor in a child
    bool handled_ = false; // the fork's handler has been called
    jmp_buf out_;
    std::vector<uint64_t> start_;
    std::string way_; // who did each step from the start to the state in hand
    std::string *trace_ = nullptr;
    std::string traced_by_;
};

} // namespace model

#endif
