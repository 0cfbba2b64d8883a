// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/coherence/workloads.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>

namespace coherence {

namespace {

// What workloads are made of. Each core runs `threads` threads one after the other.
class Program {
  public:
    Program(unsigned cores, uint64_t scale) : cores_(cores), scale_(scale), work_(cores) {}
    virtual ~Program() = default;
    virtual void thread(unsigned core) = 0;
    virtual bool none_left(unsigned) { return true; }

    Allocator allocator{};
    std::vector<Work> work() const { return work_; }

  protected:
    uint64_t scaled(uint64_t operations) const {
        return std::max<uint64_t>(operations * scale_ / 100, 1);
    }
    static uint64_t below(uint64_t n) { return machine->random() % n; }

    // Writes the first line of the block, as a program would.
    void *allocate(size_t size) {
        machine->pass(below(4000)); // what the program does between its calls
        machine->kind(kMalloc);
        void *block = allocator.allocate(size);
        machine->kind(kProgram);
        if (block == nullptr) {
            std::fprintf(stderr, "coherence: out of memory\n");
            std::exit(1);
        }
        machine->touch(block, std::min<size_t>(size, 8), true);
        return block;
    }
    void release(void *block) {
        if (block == nullptr) {
            return;
        }
        machine->pass(below(4000));
        machine->kind(kFree);
        allocator.release(block);
        machine->kind(kProgram);
    }

    // Behind a barrier: from here on it counts.
    void begin(unsigned core) {
        machine->barrier();
        if (core == 0) {
            machine->measure();
        }
        machine->barrier();
        begin_[core] = machine->clock();
    }
    void end(unsigned core, uint64_t operations) {
        work_[core].operations += operations;
        work_[core].ps = machine->clock() - begin_[core];
    }

    unsigned cores_;
    uint64_t scale_;
    std::vector<Work> work_;
    uint64_t begin_[kMostCores] = {};
};

// Each core replaces random blocks of its own.
class Replace : public Program {
  public:
    Replace(unsigned cores, uint64_t scale, size_t slots, size_t least, size_t most, uint64_t count)
        : Program(cores, scale), slots_(slots), least_(least), most_(most), count_(count) {}

    void thread(unsigned core) override {
        std::vector<void *> slots(slots_);
        for (size_t i = 0; i < kWarm; i++) {
            step(&slots);
        }
        begin(core);
        uint64_t operations = 0;
        for (uint64_t i = 0; i < scaled(count_); i++) {
            operations += step(&slots);
        }
        end(core, operations);
        machine->barrier();
        machine->stop_measuring();
    }

  private:
    // Steps until it counts: so many that each size has been used often, and caches have the width
    // that they keep.
    static constexpr size_t kWarm = 12000;

    // A full slot is freed, an empty one gets a block.
    uint64_t step(std::vector<void *> *slots) {
        void *&slot = (*slots)[below(slots_)];
        if (slot != nullptr) {
            release(slot);
            slot = nullptr;
        } else {
            slot = allocate(least_ + below(most_ - least_ + 1));
        }
        return 1;
    }

    size_t slots_, least_, most_;
    uint64_t count_;
};

// Each core allocates batches and frees those of other cores.
class HandOver : public Program {
  public:
    HandOver(unsigned cores, uint64_t scale, size_t batch, size_t least, size_t most,
             uint64_t batches)
        : Program(cores, scale), batch_(batch), least_(least), most_(most), batches_(batches),
          inbox_(cores) {}

    void thread(unsigned core) override {
        for (size_t blocks = 0; blocks < kWarm; blocks += batch_) {
            step(core);
        }
        begin(core);
        uint64_t operations = 0;
        for (uint64_t i = 0; i < scaled(batches_); i++) {
            operations += step(core);
        }
        end(core, operations);
        machine->barrier();
        machine->stop_measuring();
    }

  private:
    size_t size() const {
        if (most_ > kLadder) {
            return least_ + below(most_ - least_ + 1);
        }
        const size_t power = size_t{8} << below(6); // as xmalloc: each power of two as often
        return power + below(power);
    }
    uint64_t step(unsigned core) {
        std::vector<void *> made;
        for (size_t i = 0; i < batch_; i++) {
            made.push_back(allocate(size()));
        }
        const unsigned to =
            cores_ == 1 ? 0 : (core + 1 + static_cast<unsigned>(below(cores_ - 1))) % cores_;
        inbox_[to].push_back(std::move(made));
        uint64_t operations = batch_;
        while (!inbox_[core].empty()) {
            const std::vector<void *> got = std::move(inbox_[core].front());
            inbox_[core].pop_front();
            for (void *block : got) {
                machine->touch(block, 8, false);
                release(block);
            }
            operations += got.size();
        }
        return operations;
    }

    static constexpr size_t kLadder = 1024;
    static constexpr size_t kWarm = 512; // blocks until it counts
    size_t batch_, least_, most_;
    uint64_t batches_;
    std::vector<std::deque<std::vector<void *>>> inbox_;
};

// A server's threads, which leave their blocks to threads on other cores.
class Larson : public Program {
  public:
    Larson(unsigned cores, uint64_t scale)
        : Program(cores, scale), done_(cores, 0), first_(cores, true) {}

    void thread(unsigned core) override {
        const bool first = first_[core];
        if (first) {
            first_[core] = false;
            if (core == 0) {
                fill();
            }
            machine->barrier();
        }
        std::vector<void *> mine = std::move(arrays_.front());
        arrays_.pop_front();
        if (first) {
            replace(&mine, 2 * kLife);
            begin(core);
        }
        const uint64_t replaced = replace(&mine, scaled(kLife));
        arrays_.push_back(std::move(mine));
        done_[core]++;
        end(core, 2 * replaced);
        if (done_[core] == kLives) {
            machine->barrier();
            machine->stop_measuring();
        }
    }
    bool none_left(unsigned core) override { return done_[core] == kLives; }

  private:
    static constexpr size_t kSlots = 200;
    static constexpr uint64_t kLife = 1000;
    static constexpr unsigned kLives = 3;

    void *block() { return allocate(8 + below(993)); }
    void fill() {
        std::vector<void *> all(kSlots * (cores_ + cores_ / 4 + 1));
        for (void *&slot : all) {
            slot = block();
        }
        for (size_t i = all.size(); i > 1; i--) {
            std::swap(all[i - 1], all[below(i)]);
        }
        for (size_t at = 0; at < all.size(); at += kSlots) {
            arrays_.emplace_back(all.begin() + static_cast<long>(at),
                                 all.begin() + static_cast<long>(at + kSlots));
        }
    }
    uint64_t replace(std::vector<void *> *slots, uint64_t count) {
        for (uint64_t i = 0; i < count; i++) {
            void *&slot = (*slots)[below(kSlots)];
            release(slot);
            slot = block();
        }
        return count;
    }

    std::deque<std::vector<void *>> arrays_;
    std::vector<unsigned> done_;
    std::vector<bool> first_;
};

// All cores allocate and none frees.
class Growth : public Program {
  public:
    using Program::Program;

    void thread(unsigned core) override {
        for (int i = 0; i < 32; i++) {
            allocate(16 + below(1009));
        }
        begin(core);
        const uint64_t count = scaled(1200);
        for (uint64_t i = 0; i < count; i++) {
            allocate(16 + below(1009));
        }
        end(core, count);
        machine->barrier();
        machine->stop_measuring();
    }
};

// Threads that do little and end.
class Threads : public Program {
  public:
    Threads(unsigned cores, uint64_t scale) : Program(cores, scale), done_(cores, 0) {}

    void thread(unsigned core) override {
        if (done_[core] == kWarm) {
            begin(core);
        }
        std::vector<void *> blocks;
        for (int i = 0; i < kBlocks; i++) {
            blocks.push_back(allocate(16 + below(1009)));
        }
        for (void *block : blocks) {
            release(block);
        }
        if (done_[core]++ >= kWarm) {
            end(core, 2 * kBlocks);
        }
        if (none_left(core)) {
            machine->barrier();
            machine->stop_measuring();
        }
    }
    bool none_left(unsigned core) override { return done_[core] >= kWarm + scaled(kThreads); }

  private:
    static constexpr unsigned kWarm = 2;
    static constexpr uint64_t kThreads = 8;
    static constexpr int kBlocks = 50;
    std::vector<uint64_t> done_;
};

// A core's block is on a line that no other core writes, or is not. One operation in each loop is a
// write to the block.
class CacheThrash : public Program {
  public:
    using Program::Program;

    void thread(unsigned core) override {
        step();
        begin(core);
        const uint64_t count = scaled(100);
        for (uint64_t i = 0; i < count; i++) {
            step();
        }
        end(core, 2 * count);
        machine->barrier();
        machine->stop_measuring();
    }

  private:
    void step() {
        void *block = allocate(8);
        for (int i = 0; i < 100; i++) {
            machine->touch(block, 8, true);
        }
        release(block);
    }
};

template <class P, class... Arguments>
Workload workload(const char *name, const char *title, Arguments... arguments) {
    return {name, title,
            [arguments...](const Machine::Setup &given, uint64_t scale, Allocator (*load)(),
                           std::unique_ptr<Machine> *machine_at) {
                P program(given.cores, scale, arguments...);
                Machine::Setup setup = given;
                setup.thread = [&program](unsigned core) { program.thread(core); };
                setup.none_left = [&program](unsigned core) { return program.none_left(core); };
                *machine_at = std::make_unique<Machine>(setup);
                program.allocator = load();
                (*machine_at)->run();
                return program.work();
            }};
}

} // namespace

const std::vector<Workload> &workloads() {
    static const std::vector<Workload> all = {
        workload<Larson>("larson", "larson: threads inherit blocks of other cores"),
        workload<HandOver>("xmalloc", "xmalloc: each block is freed by another core", 64, 8, 511,
                           12),
        workload<Replace>("mixed", "random_mixed: 16-1040 B, each core its own", 200, 16, 1040,
                          2000),
        workload<Replace>("middle", "blocks of 8-32 KiB, each core its own", 40, 8192, 32768, 1000),
        workload<HandOver>("large", "blocks of 64-512 KiB, freed by another core", 4, 65536, 524288,
                           160),
        workload<Growth>("growth", "growth: all cores allocate 16-1024 B, none frees"),
        workload<Threads>("threads", "threads of 100 operations each, that start and end"),
        workload<CacheThrash>("thrash", "cache-thrash: 100 writes to a block of 8 B"),
    };
    return all;
}

} // namespace coherence
