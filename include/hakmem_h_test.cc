// SPDX-License-Identifier: Apache-2.0
// The public header in C++.
#include "include/hakmem_h_test.h"

hak_stats defined;

namespace {

using Stats = ::hak_stats;

static_assert(noexcept(hak_stats(&defined)), "like the C library's own functions");
static_assert(noexcept(free_sized(nullptr, 0)), "like free()");

} // namespace

int main() {
    hak_stats s;
    ::hak_stats(&s);
    struct hak_stats *const copy = new Stats(s);
    const bool same = copy->superslabs == s.superslabs && s.superslabs != 0;
    delete copy;
    const hak_stats zero = hak_stats();
    const hak_stats none{};
    if (!same || zero.superslabs != none.superslabs || zero.os_calls != 0) {
        return 10;
    }
    return check_header();
}
