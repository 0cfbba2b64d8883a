// SPDX-License-Identifier: Apache-2.0
// Kernels of malloc and free in one thread, by the sizes of blocks and the order of their frees.
#include "benchmarks/workers/kernels/kernels.h"

#include <utility>

namespace {

constexpr size_t kDeep = 200000; // blocks that live at a time

struct Node {
    Node *left, *right;
};

Node *build(int depth) {
    Node *node = static_cast<Node *>(worker_check(malloc(sizeof(Node))));
    node->left = depth != 0 ? build(depth - 1) : nullptr;
    node->right = depth != 0 ? build(depth - 1) : nullptr;
    return node;
}

void take_down(Node *node) {
    if (node->left != nullptr) {
        take_down(node->left);
        take_down(node->right);
    }
    free(node);
}

uint64_t tree(Run &run) {
    constexpr int kDepth = 16;
    uint64_t done = 0;
    for (; done < run.count; done += (2 << kDepth) - 1) {
        take_down(build(kDepth));
    }
    return done;
}

uint64_t tiny(Run &run) {
    constexpr size_t kSlots = 1000000;
    static void *slots[kSlots];
    for (uint64_t i = 0; i < run.count; i++) {
        void **slot = &slots[i % kSlots];
        free(*slot);
        *slot = touch(malloc(8));
    }
    return run.count;
}

uint64_t first_in(Run &run, bool first_out) {
    static void *slots[kDeep];
    uint64_t done = 0;
    for (; done < run.count; done += kDeep) {
        for (void *&slot : slots) {
            slot = touch(malloc(40));
        }
        for (size_t i = 0; i < kDeep; i++) {
            free(slots[first_out ? i : kDeep - 1 - i]);
        }
    }
    return done;
}

uint64_t lifo(Run &run) {
    return first_in(run, false);
}

uint64_t fifo(Run &run) {
    return first_in(run, true);
}

uint64_t deep_mix(Run &run) {
    static void *slots[kDeep];
    uint64_t done = 0;
    for (; done < run.count; done += kDeep) {
        for (void *&slot : slots) {
            slot = touch(malloc(1 + below(run, 600)));
        }
        for (void *&slot : slots) {
            std::swap(slot, slots[below(run, kDeep)]);
        }
        for (void *slot : slots) {
            free(slot);
        }
    }
    return done;
}

uint64_t new_delete(Run &run) {
    struct Object {
        char bytes[72];
    };
    static Object *slots[256];
    for (uint64_t i = 0; i < run.count; i++) {
        Object **slot = &slots[below(run, 256)];
        delete *slot;
        *slot = new Object;
        touch(*slot);
    }
    return run.count;
}

uint64_t medium(Run &run) {
    return replace<128>(run, [](Run &of) { return touch(malloc(20000 + below(of, 80000))); });
}

uint64_t filled_1m(Run &run) {
    return replace<8>(run, [](Run &of) {
        const size_t size = 1000000 + below(of, 1000000);
        return fill(malloc(size), size);
    });
}

uint64_t filled_16m(Run &run) {
    for (uint64_t i = 0; i < run.count; i++) {
        const size_t size = 16000000 + below(run, 1000000);
        free(fill(malloc(size), size));
    }
    return run.count;
}

uint64_t touched_200m(Run &run) {
    constexpr size_t kSize = 200000000;
    for (uint64_t i = 0; i < run.count; i++) {
        char *block = static_cast<char *>(worker_check(malloc(kSize)));
        for (size_t at = 0; at < kSize; at += 1 << 20) {
            touch(block + at);
        }
        free(block);
    }
    return run.count;
}

uint64_t survivors(Run &run) {
    constexpr size_t kBatch = 20000;
    static void *batch[kBatch];
    uint64_t done = 0;
    for (; done < run.count; done += kBatch) {
        const size_t size = size_t{16} << below(run, 8);
        for (void *&block : batch) {
            block = touch(malloc(size + below(run, size)));
        }
        for (size_t i = 0; i < kBatch; i++) {
            if (i % 50 != 0) {
                free(batch[i]);
            }
        }
    }
    return done;
}

} // namespace

const Kernel kBlockKernels[] = {
    {"tree", "a node of 16 B of a tree of 131 071; freed with it", 3000000, tree},
    {"tiny-8", "malloc of 8 B; free of the oldest of 1 000 000", 4000000, tiny},
    {"lifo", "malloc of 40 B; 200 000 are freed, the newest first", 4000000, lifo},
    {"fifo", "the same, the oldest first", 4000000, fifo},
    {"deep-mix", "malloc of 1 to 600 B; 200 000 are freed in random order", 4000000, deep_mix},
    {"new-delete", "new and delete of 72 B", 5000000, new_delete},
    {"medium", "malloc of 20 to 100 kB, a byte written; free", 100000, medium},
    {"large-1m-filled", "malloc of 1 to 2 MB, all of it written; free", 2000, filled_1m},
    {"large-16m-filled", "malloc of 16 to 17 MB, all of it written; free", 60, filled_16m},
    {"large-200m", "malloc of 200 MB, a byte in each MiB written; free", 200, touched_200m},
    {"survivors", "malloc in batches of 16 B to 4 KB, 1 block of 50 stays", 2000000, survivors},
    {nullptr, nullptr, 0, nullptr},
};
