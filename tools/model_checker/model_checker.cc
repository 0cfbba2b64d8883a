// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/model_checker.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <utility>

namespace model {

namespace {

// The first operation that a forked child's thread does after the one that it was in.
constexpr uint32_t kChild = 1 << 20;

// What a way is written with: a step of a thread, or a fork in it. The low four bits say which.
constexpr char kStep[] = "0123456789";
constexpr char kFork[] = "pqrstuvwxy";

uint64_t mix(uint64_t value) {
    value = (value ^ value >> 32) * 0xd6e8feb86659fd93u;
    value = (value ^ value >> 32) * 0xd6e8feb86659fd93u;
    return value ^ value >> 32;
}

std::string hex(uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, value < 10 ? "%" PRIu64 : "0x%" PRIx64, value);
    return text;
}

uint64_t read(volatile const void *at, size_t size) {
    uint64_t value = 0;
    memcpy(&value, const_cast<const void *>(at), size);
    return value;
}

void write(volatile void *at, size_t size, uint64_t value) {
    memcpy(const_cast<void *>(at), &value, size);
}

} // namespace

bool Seen::insert(uint64_t key) {
    key = key == 0 ? 1 : key;
    if (size_ * 10 >= table_.size() * 7) {
        std::vector<uint64_t> old(table_.size() * 2);
        old.swap(table_);
        size_ = 0;
        for (uint64_t each : old) {
            if (each != 0) {
                insert(each);
            }
        }
    }
    size_t at = key & (table_.size() - 1);
    while (table_[at] != 0) {
        if (table_[at] == key) {
            return false;
        }
        at = (at + 1) & (table_.size() - 1);
    }
    table_[at] = key;
    size_++;
    return true;
}

Checker *Checker::current_ = nullptr;

Checker::Checker(std::vector<Program> programs)
    : programs_(std::move(programs)), index_(256), threads_(programs_.size()) {
    current_ = this;
}

Checker::~Checker() = default;

void Checker::cells(volatile const void *at, size_t each, size_t count, std::string name) {
    regions_.push_back({reinterpret_cast<uintptr_t>(at), each, count, std::move(name)});
}

void Checker::ignore(volatile const void *at, size_t bytes, uint64_t value) {
    ignored_.push_back({reinterpret_cast<uintptr_t>(at), bytes, value});
}

void Checker::data(void *at, size_t bytes) {
    data_.push_back({static_cast<char *>(at), bytes});
}

void Checker::with_forks(Program survivor) {
    with_forks_ = true;
    survivor_ = std::move(survivor);
}

void Checker::before(size_t t, Op op) {
    current_ = this;
    run_alone(t, op);
}

void Checker::run_alone(size_t t, Op op) {
    if (faulty()) {
        return;
    }
    uint32_t next = threads_[t].next;
    alone_ = true;
    take_step(t, op);
    alone_ = false;
    threads_[t].next = next;
}

bool Checker::check() {
    current_ = this;
    if (!fault_.empty()) {
        report_ = fault_ + "\nbefore the search\n" + describe();
        return false;
    }
    save(&start_);
    if (search(UINT32_MAX)) {
        states_ = seen_.size();
        seen_ = Seen();
        return true;
    }
    // The way with the fewest changes from thread to thread is the easiest to follow: it is looked
    // for as long as that takes no more than a minute or so.
    constexpr size_t kMostStates = 20 << 20;
    size_t states = seen_.size();
    size_t ends = ends_;
    size_t forks = forks_;
    std::string way = way_;
    std::string fault = fault_;
    size_t looked_at = 0;
    for (uint32_t switches = 0; looked_at < kMostStates; switches++) {
        fault_.clear();
        if (!search(switches)) {
            way = way_;
            fault = fault_;
            break;
        }
        looked_at += seen_.size();
    }
    write_report(fault, way);
    seen_ = Seen();
    states_ = states;
    ends_ = ends;
    forks_ = forks;
    return false;
}

bool Checker::search(uint32_t most_switches) {
    struct Footer {
        Step step;
        size_t words;
    };
    std::vector<uint64_t> stack; // states, one behind the other
    std::vector<Footer> footers;
    std::vector<uint64_t> from;
    std::vector<uint64_t> to;
    seen_ = Seen();
    ends_ = 0;
    forks_ = 0;
    auto visit = [&](Step step) {
        save(&to);
        uint64_t hash = key(to);
        if (most_switches != UINT32_MAX) {
            hash = mix(hash + step.switches * 256 + static_cast<unsigned char>(step.by));
        }
        if (seen_.insert(hash)) {
            stack.insert(stack.end(), to.begin(), to.end());
            footers.push_back({step, to.size()});
        }
    };
    load(start_);
    visit({});
    while (!footers.empty()) {
        Footer footer = footers.back();
        footers.pop_back();
        from.assign(stack.end() - static_cast<ptrdiff_t>(footer.words), stack.end());
        stack.resize(stack.size() - footer.words);
        way_.resize(footer.step.depth);
        if (footer.step.depth > 0) {
            way_.back() = footer.step.by;
        }
        auto go = [&](char by) {
            Step step = {footer.step.depth + 1, footer.step.switches, by};
            step.switches += footer.step.by != 0 && footer.step.by % 16 != by % 16;
            if (step.switches > most_switches) {
                return true;
            }
            load(from);
            move(by);
            if (!fault_.empty()) {
                way_ += by;
                return false;
            }
            visit(step);
            return true;
        };
        uint64_t run = from.back();
        for (size_t t = 0; t < programs_.size(); t++) {
            if ((run >> t & 1) != 0 && !go(kStep[t])) {
                return false;
            }
        }
        load(from);
        if (run == 0) {
            ends_++;
            at_end(forked_);
            if (!fault_.empty()) {
                return false;
            }
        } else if (with_forks_ && !forked_) {
            for (size_t t = 0; t < programs_.size(); t++) {
                forks_++;
                if (!go(kFork[t])) {
                    return false;
                }
            }
        }
    }
    return true;
}

void Checker::move(char by) {
    size_t t = static_cast<size_t>(by % 16);
    if (by == kFork[t]) {
        fork_in(t);
    } else {
        take_step(t, op_of(t));
    }
}

const Op &Checker::op_of(size_t t) const {
    uint32_t next = threads_[t].next;
    return next >= kChild ? survivor_[next - kChild] : programs_[t][next];
}

bool Checker::is_done(size_t t) const {
    uint32_t next = threads_[t].next;
    return !threads_[t].alive ||
           (next >= kChild ? next - kChild == survivor_.size() : next == programs_[t].size());
}

bool Checker::is_survivors() const {
    return threads_[running_].next >= kChild;
}

void Checker::fork_in(size_t t) {
    running_ = t;
    forked_ = true;
    for (size_t other = 0; other < threads_.size(); other++) {
        Thread &thread = threads_[other];
        if (other != t) {
            thread.alive = false;
            thread.next = 0;
            thread.steps = 0;
        }
    }
    Thread &thread = threads_[t];
    if (thread.steps == 0) {
        thread.next = kChild;
    }
    if (has_fork_handler) {
        thread.interrupted = thread.steps;
    }
    if (trace_ != nullptr) {
        trace("forks: the child goes on, without the other threads");
    }
    threads_are_gone();
}

bool Checker::take_step(size_t t, const Op &op) {
    running_ = t;
    replayed_ = 0;
    stepped_ = false;
    handled_ = false;
    if (setjmp(out_) != 0) {
        return false;
    }
    Thread &thread = threads_[t];
    if (thread.interrupted == 0) { // by a fork between two operations
        handled_ = true;
        after_fork();
    }
    perform(op);
    thread.next = forked_ && thread.next < kChild ? kChild : thread.next + 1;
    thread.steps = 0;
    thread.interrupted = kNever;
    return true;
}

// True if the value of the running thread's next step is known from before.
bool Checker::begin_step(uint64_t *value) {
    Thread &thread = threads_[running_];
    if (thread.interrupted == replayed_ && !handled_) {
        handled_ = true;
        after_fork();
    }
    if (replayed_ < thread.steps) {
        *value = thread.got[replayed_++];
        return true;
    }
    if (stepped_ && !alone_ && !forked_) {
        longjmp(out_, 1);
    }
    if (thread.steps == kMostSteps) {
        fail("an operation that does not end");
    }
    stepped_ = true;
    return false;
}

void Checker::end_step(uint64_t value) {
    Thread &thread = threads_[running_];
    thread.got[thread.steps++] = value;
    replayed_ = thread.steps;
}

uint64_t Checker::atomic(model_op op, volatile void *at, size_t size, uint64_t a, uint64_t b) {
    int index = look_up(at, size);
    if (index < kUnknown) {
        return ignored_[static_cast<size_t>(-2 - index)].value;
    }
    uint64_t before;
    if (begin_step(&before)) {
        return before;
    }
    uint64_t mask = ~uint64_t{0} >> (64 - size * 8);
    uint64_t value = before = read(at, size);
    const char *name = "load";
    switch (op) {
    case MODEL_LOAD:
        break;
    case MODEL_STORE:
        name = "store";
        value = a;
        break;
    case MODEL_EXCHANGE:
        name = "exchange";
        value = a;
        break;
    case MODEL_OR:
        name = "or";
        value |= a;
        break;
    case MODEL_AND:
        name = "and";
        value &= a;
        break;
    case MODEL_ADD:
        name = "add";
        value += a;
        break;
    case MODEL_SUB:
        name = "subtract";
        value -= a;
        break;
    case MODEL_CAS:
        name = value == (a & mask) ? "compare, swap" : "compare, keep";
        value = value == (a & mask) ? b : value;
        break;
    }
    write(at, size, value & mask);
    if (trace_ != nullptr) {
        trace(std::string(name) + " " + name_at(at) + ": " + hex(before) +
              (op == MODEL_LOAD || (op == MODEL_CAS && value == before)
                   ? ""
                   : " -> " + hex(value & mask)));
    }
    // A store has no result, which could tell states apart.
    end_step(op == MODEL_STORE ? 0 : before);
    return before;
}

int Checker::look_up(volatile void *at, size_t size) {
    auto address = reinterpret_cast<uintptr_t>(at);
    for (size_t i = mix(address);; i++) {
        auto &place = index_[i & (index_.size() - 1)];
        if (place.first == address) {
            return place.second;
        }
        if (place.first != 0) {
            continue;
        }
        int found = find_cell(at, size);
        place = {address, found};
        if (++index_used_ * 2 > index_.size()) {
            std::vector<std::pair<uintptr_t, int>> old(index_.size() * 2);
            old.swap(index_);
            for (auto &each : old) {
                size_t j = mix(each.first);
                while (each.first != 0 && index_[j & (index_.size() - 1)].first != 0) {
                    j++;
                }
                if (each.first != 0) {
                    index_[j & (index_.size() - 1)] = each;
                }
            }
        }
        return found;
    }
}

int Checker::find_cell(volatile void *at, size_t size) {
    auto address = reinterpret_cast<uintptr_t>(at);
    for (const Region &region : regions_) {
        if (address - region.at < region.each * region.count) {
            cells_.push_back({at, size, read(at, size)});
            return static_cast<int>(cells_.size() - 1);
        }
    }
    for (size_t i = 0; i < ignored_.size(); i++) {
        if (address - ignored_[i].at < ignored_[i].bytes) {
            return -2 - static_cast<int>(i);
        }
    }
    fail("an atomic variable that the model does not know, at " + hex(address));
}

std::string Checker::name_at(volatile const void *at) const {
    auto address = reinterpret_cast<uintptr_t>(at);
    for (const Region &region : regions_) {
        if (address - region.at < region.each * region.count) {
            size_t i = (address - region.at) / region.each;
            return region.name + (region.count > 1 ? "[" + std::to_string(i) + "]" : "");
        }
    }
    return hex(address);
}

void Checker::note(const std::string &what) {
    if (fault_.empty()) {
        fault_ = what;
    }
}

void Checker::fail(std::string what) {
    note(what);
    std::string().swap(what); // longjmp() runs no destructor
    longjmp(out_, 1);
}

// The last word says which threads are not done.
void Checker::save(std::vector<uint64_t> *to) const {
    to->clear();
    to->push_back(cells_.size());
    for (const Cell &cell : cells_) {
        to->push_back(read(cell.at, cell.size));
    }
    for (const Data &each : data_) {
        size_t at = to->size();
        to->resize(at + each.bytes / 8);
        memcpy(to->data() + at, each.at, each.bytes);
    }
    uint64_t run = 0;
    for (size_t t = 0; t < threads_.size(); t++) {
        const Thread &thread = threads_[t];
        to->push_back(uint64_t{thread.next} << 32 | thread.steps << 1 |
                      static_cast<uint64_t>(thread.alive));
        to->push_back(thread.interrupted);
        to->insert(to->end(), thread.got, thread.got + thread.steps);
        run |= static_cast<uint64_t>(!is_done(t)) << t;
    }
    to->push_back(static_cast<uint64_t>(forked_));
    to->push_back(run);
}

void Checker::load(const std::vector<uint64_t> &from) {
    const uint64_t *word = from.data();
    size_t count = *word++;
    for (size_t i = 0; i < cells_.size(); i++) {
        write(cells_[i].at, cells_[i].size, i < count ? word[i] : cells_[i].initial);
    }
    word += count;
    for (const Data &each : data_) {
        memcpy(each.at, word, each.bytes);
        word += each.bytes / 8;
    }
    for (Thread &thread : threads_) {
        thread.next = static_cast<uint32_t>(*word >> 32);
        thread.steps = static_cast<uint32_t>(*word) >> 1;
        thread.alive = (*word++ & 1) != 0;
        thread.interrupted = static_cast<uint32_t>(*word++);
        memcpy(thread.got, word, thread.steps * sizeof *word);
        word += thread.steps;
    }
    forked_ = *word != 0;
}

// The same for a state that was saved before all cells were known.
uint64_t Checker::key(const std::vector<uint64_t> &state) const {
    uint64_t sum = 0;
    size_t count = state[0];
    for (size_t i = 0; i < count; i++) {
        if (state[1 + i] != cells_[i].initial) {
            sum += mix(state[1 + i] + (i + 1) * 0x9e3779b97f4a7c15u);
        }
    }
    for (size_t i = 1 + count; i < state.size(); i++) {
        sum = mix(sum ^ state[i]) + i - count;
    }
    return mix(sum);
}

void Checker::trace(const std::string &what) {
    std::string by = "thread " + std::to_string(running_);
    if (!is_done(running_)) {
        by += ", " + name_of(op_of(running_));
    }
    if (by != traced_by_) {
        *trace_ += by + "\n";
        traced_by_ = by;
    }
    *trace_ += "    " + what + "\n";
}

void Checker::trace_step(const char *name, uint64_t value) {
    if (trace_ != nullptr) {
        trace(std::string(name) + ": " + hex(value));
    }
}

void Checker::write_report(const std::string &fault, const std::string &way) {
    std::string text;
    trace_ = &text;
    traced_by_.clear();
    fault_.clear();
    load(start_);
    for (char by : way) {
        move(by);
    }
    bool ended = fault_.empty();
    if (ended) {
        at_end(forked_);
    }
    trace_ = nullptr;
    report_ = fault + "\nafter " + std::to_string(way.size()) + " steps" +
              (ended ? ", at the end" : "") + ":\n" + text + "cells that are not 0:\n";
    for (const Cell &cell : cells_) {
        uint64_t value = read(cell.at, cell.size);
        if (value != 0) {
            report_ += "    " + name_at(cell.at) + ": " + hex(value) + "\n";
        }
    }
    report_ += describe();
}

} // namespace model

uint64_t model_step(model_op op, volatile void *at, size_t size, uint64_t a, uint64_t b) {
    return model::Checker::current().atomic(op, at, size, a, b);
}
