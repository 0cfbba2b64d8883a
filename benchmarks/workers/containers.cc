// SPDX-License-Identifier: Apache-2.0
// containers: what C++ programs do to a malloc: trees, hash tables, strings, lists, deques, vectors
// of vectors and shared pointers, built up, searched, changed and taken down.
#include "benchmarks/workers/worker.h"

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

uint64_t passes = 12;
uint64_t items = 40000;
uint64_t seed = 42;

std::string name_of(uint64_t number) {
    // Half of the names fit into the string itself, half do not.
    const std::string digits = std::to_string(number);
    return number % 2 == 0 ? digits : "a name that needs memory of its own: " + digits;
}

uint64_t ordered(uint64_t *state) {
    std::map<uint64_t, std::string> tree;
    for (uint64_t i = 0; i < items; i++) {
        tree.emplace(worker_random(state) % (4 * items), name_of(i));
    }
    uint64_t sum = 0;
    for (auto at = tree.begin(); at != tree.end();) {
        sum += at->second.size();
        at = at->first % 3 == 0 ? tree.erase(at) : std::next(at);
    }
    return sum + tree.size();
}

uint64_t hashed(uint64_t *state) {
    std::unordered_map<std::string, std::vector<uint32_t>> index;
    for (uint64_t i = 0; i < items; i++) {
        index[name_of(worker_random(state) % (items / 4))].push_back(static_cast<uint32_t>(i));
    }
    uint64_t sum = 0;
    for (const auto &[key, numbers] : index) {
        sum += key.size() * numbers.size();
    }
    return sum;
}

uint64_t queued(uint64_t *state) {
    std::deque<std::string> queue;
    std::list<std::shared_ptr<std::string>> list;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < items; i++) {
        queue.push_back(name_of(worker_random(state)));
        list.push_front(std::make_shared<std::string>(queue.back()));
        if (queue.size() > items / 8) {
            sum += queue.front().size();
            queue.pop_front();
            list.pop_back();
        }
    }
    return sum + list.size();
}

struct Node {
    std::vector<std::unique_ptr<Node>> children;
    std::string label;
};

std::unique_ptr<Node> grow(uint64_t *state, int depth) {
    auto node = std::make_unique<Node>();
    node->label = name_of(worker_random(state));
    for (uint64_t i = depth == 0 ? 0 : 2 + worker_random(state) % 4; i > 0; i--) {
        node->children.push_back(grow(state, depth - 1));
    }
    return node;
}

uint64_t weigh(const Node &node) {
    uint64_t sum = node.label.size();
    for (const auto &child : node.children) {
        sum += weigh(*child);
    }
    return sum;
}

} // namespace

int main(int argc, char **argv) {
    const worker_option table[] = {
        {"passes", 1, 1u << 30, &passes},
        {"items", 16, 1u << 30, &items},
        {"seed", 0, UINT64_MAX, &seed},
        {nullptr, 0, 0, nullptr},
    };
    worker_options(argc, argv, table, "", 0);
    uint64_t state = worker_random_seed(seed);
    uint64_t sum = 0;
    for (uint64_t pass = 0; pass < passes; pass++) {
        sum += ordered(&state);
        sum += hashed(&state);
        sum += queued(&state);
        sum += weigh(*grow(&state, 7));
    }
    worker_report_allocator();
    std::printf("sum %lu\n", static_cast<unsigned long>(sum));
    return 0;
}
