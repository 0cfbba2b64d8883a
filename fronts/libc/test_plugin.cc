// SPDX-License-Identifier: Apache-2.0
// A library for dlopen(): allocates in its constructor, in functions, and has thread-local data
// that the dynamic loader allocates when it is first used.
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

namespace {

struct Table {
    std::vector<std::string> rows;
    Table() {
        for (size_t i = 0; i < 100; i++) {
            rows.push_back(std::string(i * 7, 'r'));
        }
    }
} table;

thread_local char large_tls[20000];

} // namespace

extern "C" {
void *plugin_alloc(size_t size);
void plugin_free(void *ptr);
int plugin_touch_tls(void);

void *plugin_alloc(size_t size) {
    return malloc(size + table.rows[0].size());
}

void plugin_free(void *ptr) {
    free(ptr);
}

// 1 if the thread-local data started as zero bytes, which only the thread's first call can see.
int plugin_touch_tls(void) {
    int zero = large_tls[0] == 0 && large_tls[sizeof large_tls - 1] == 0;
    memset(large_tls, 1, sizeof large_tls);
    return zero;
}
}
