// SPDX-License-Identifier: Apache-2.0
// Kernels of C++'s containers.
#include "benchmarks/workers/kernels/kernels.h"

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr uint64_t kAppended = 100000;

uint64_t string_append(Run &run) {
    uint64_t done = 0;
    for (; done < run.count; done += kAppended) {
        std::string text;
        for (uint64_t i = 0; i < kAppended; i++) {
            text.push_back(static_cast<char>('a' + (i & 15)));
        }
        worker_use(&text[0]);
    }
    return done;
}

uint64_t vector_append(Run &run) {
    uint64_t done = 0;
    for (; done < run.count; done += kAppended) {
        std::vector<int> numbers;
        for (uint64_t i = 0; i < kAppended; i++) {
            numbers.push_back(static_cast<int>(i));
        }
        worker_use(numbers.data());
    }
    return done;
}

uint64_t map_insert(Run &run) {
    std::map<uint64_t, uint64_t> map;
    for (uint64_t i = 0; i < run.count; i++) {
        map[worker_random(&run.random)] = i;
    }
    return run.count;
}

uint64_t hash_table(Run &run) {
    std::unordered_map<std::string, std::string> map;
    for (uint64_t i = 0; i < run.count; i++) {
        map["the long name of a key: " + std::to_string(below(run, 200000))] =
            "value " + std::to_string(i);
    }
    return run.count;
}

template <class Queue> uint64_t queue(const Run &run, size_t most) {
    Queue numbers;
    for (uint64_t i = 0; i < run.count; i++) {
        numbers.push_back(i);
        if (numbers.size() > most) {
            numbers.pop_front();
        }
    }
    return run.count;
}

uint64_t linked_list(Run &run) {
    return queue<std::list<uint64_t>>(run, 1000);
}

uint64_t deque(Run &run) {
    return queue<std::deque<uint64_t>>(run, 100000);
}

uint64_t shared_pointers(Run &run) {
    constexpr size_t kSlots = 5000;
    std::vector<std::shared_ptr<uint64_t>> slots(kSlots);
    for (uint64_t i = 0; i < run.count; i++) {
        slots[below(run, kSlots)] = std::make_shared<uint64_t>(i);
    }
    return run.count;
}

struct Value {
    std::string text;
    std::vector<Value> children;
};

uint64_t json(Run &run) {
    uint64_t done = 0;
    while (done < run.count) {
        Value root;
        for (int i = 0; i < 100; i++) {
            root.children.emplace_back();
            Value &object = root.children.back();
            object.text = "object number " + std::to_string(i);
            for (size_t j = 0; j < 100; j++) {
                object.children.emplace_back();
                object.children.back().text = std::string(10 + j % 40, 'x');
                done++;
            }
        }
    }
    return done;
}

} // namespace

const Kernel kContainerKernels[] = {
    {"string-append", "push_back to a std::string of up to 100 000 characters", 30000000,
     string_append},
    {"vector-append", "push_back to a std::vector of up to 100 000 ints", 30000000, vector_append},
    {"map", "an insertion into a std::map, which is destroyed at the end", 1000000, map_insert},
    {"hash-table", "an assignment of a string in a std::unordered_map of 200 000 strings", 500000,
     hash_table},
    {"linked-list", "push_back and pop_front of a std::list of 1000", 5000000, linked_list},
    {"deque", "push_back and pop_front of a std::deque of 100 000", 20000000, deque},
    {"shared-pointers", "a std::make_shared in place of one of 5000", 3000000, shared_pointers},
    {"json", "a string in a tree of vectors, 100 in each of 100; freed with it", 300000, json},
    {nullptr, nullptr, 0, nullptr},
};
