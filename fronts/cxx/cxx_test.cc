// SPDX-License-Identifier: Apache-2.0
// Every replaceable form of operator new and delete, on whatever flavour the test is linked to.
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <map>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

namespace {

using std::align_val_t;
using std::nothrow;

constexpr size_t kTooLarge = PTRDIFF_MAX - 4096;

size_t Live() {
    struct hak_stats s = test_util::Stats();
    return s.tiny_live + s.large_live;
}

size_t Opaque(size_t n) {
    volatile size_t v = n;
    return v;
}

struct NewForm {
    const char *name;
    bool throws;
    bool aligned;
    void *(*call)(size_t size, size_t align);
};

const NewForm kNews[] = {
    {"new", true, false, [](size_t n, size_t) { return ::operator new(n); }},
    {"new[]", true, false, [](size_t n, size_t) { return ::operator new[](n); }},
    {"new nothrow", false, false, [](size_t n, size_t) { return ::operator new(n, nothrow); }},
    {"new[] nothrow", false, false, [](size_t n, size_t) { return ::operator new[](n, nothrow); }},
    {"new align", true, true,
     [](size_t n, size_t a) { return ::operator new (n, align_val_t{a}); }},
    {"new[] align", true, true,
     [](size_t n, size_t a) { return ::operator new[](n, align_val_t{a}); }},
    {"new align nothrow", false, true,
     [](size_t n, size_t a) { return ::operator new (n, align_val_t{a}, nothrow); }},
    {"new[] align nothrow", false, true,
     [](size_t n, size_t a) { return ::operator new[](n, align_val_t{a}, nothrow); }},
};

struct DeleteForm {
    const char *name;
    bool aligned;
    void (*call)(void *p, size_t size, size_t align);
};

const DeleteForm kDeletes[] = {
    {"delete", false, [](void *p, size_t, size_t) { ::operator delete(p); }},
    {"delete[]", false, [](void *p, size_t, size_t) { ::operator delete[](p); }},
    {"delete size", false, [](void *p, size_t n, size_t) { ::operator delete(p, n); }},
    {"delete[] size", false, [](void *p, size_t n, size_t) { ::operator delete[](p, n); }},
    {"delete nothrow", false, [](void *p, size_t, size_t) { ::operator delete(p, nothrow); }},
    {"delete[] nothrow", false, [](void *p, size_t, size_t) { ::operator delete[](p, nothrow); }},
    {"delete align", true,
     [](void *p, size_t, size_t a) { ::operator delete (p, align_val_t{a}); }},
    {"delete[] align", true,
     [](void *p, size_t, size_t a) { ::operator delete[](p, align_val_t{a}); }},
    {"delete size align", true,
     [](void *p, size_t n, size_t a) { ::operator delete (p, n, align_val_t{a}); }},
    {"delete[] size align", true,
     [](void *p, size_t n, size_t a) { ::operator delete[](p, n, align_val_t{a}); }},
    {"delete align nothrow", true,
     [](void *p, size_t, size_t a) { ::operator delete (p, align_val_t{a}, nothrow); }},
    {"delete[] align nothrow", true,
     [](void *p, size_t, size_t a) { ::operator delete[](p, align_val_t{a}, nothrow); }},
};

// Installs a new-handler for one scope.
class Handler {
  public:
    explicit Handler(std::new_handler handler) : before_(std::set_new_handler(handler)) {}
    ~Handler() { std::set_new_handler(before_); }

  private:
    std::new_handler before_;
};

TEST(Operators, EveryNewWithEveryDelete) {
    for (const NewForm &form : kNews) {
        for (const DeleteForm &del : kDeletes) {
            if (form.aligned != del.aligned) {
                continue;
            }
            SCOPED_TRACE(std::string(form.name) + ", " + del.name);
            for (size_t align = 32; align <= (form.aligned ? size_t{1} << 21 : 32); align *= 4) {
                for (size_t n : {size_t{0}, size_t{1}, size_t{16}, size_t{100}, size_t{128},
                                 size_t{1024}, size_t{1025}, size_t{5000}, size_t{32768},
                                 size_t{32769}, size_t{200000}, size_t{3} << 20}) {
                    size_t live = Live();
                    char *p = static_cast<char *>(form.call(n, align));
                    ASSERT_NE(p, nullptr);
                    size_t at_least = form.aligned ? align : 16;
                    ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % at_least, 0u);
                    ASSERT_GE(malloc_usable_size(p), n);
                    ASSERT_GT(Live(), live); // it is this allocator that answers
                    memset(p, 0x77, n);
                    errno = 77;
                    del.call(p, n, align);
                    ASSERT_EQ(errno, 77);
                    ASSERT_EQ(Live(), live) << n;
                }
            }
        }
    }
}

TEST(Operators, DeleteOfNull) {
    for (const DeleteForm &del : kDeletes) {
        del.call(nullptr, 100, 64);
    }
}

TEST(Operators, DistinctBlocksForZeroBytes) {
    void *a = ::operator new(0);
    void *b = ::operator new(0);
    EXPECT_NE(a, b);
    ::operator delete(a);
    ::operator delete (b, size_t{0});
}

TEST(Operators, MixWithMallocAndFree) {
    // The standard does not promise it, programs do it.
    free(::operator new(100));
    ::operator delete(malloc(100));
}

TEST(OutOfMemory, WithoutHandler) {
    Handler none(nullptr);
    for (const NewForm &form : kNews) {
        SCOPED_TRACE(form.name);
        size_t live = Live();
        for (size_t n : {kTooLarge, size_t{PTRDIFF_MAX}, SIZE_MAX}) {
            if (form.throws) {
                EXPECT_THROW(form.call(Opaque(n), 64), std::bad_alloc);
            } else {
                EXPECT_EQ(form.call(Opaque(n), 64), nullptr);
            }
        }
        EXPECT_EQ(Live(), live);
    }
}

int handler_calls;

TEST(OutOfMemory, HandlerIsCalledUntilItGivesUp) {
    Handler three([] {
        if (++handler_calls == 3) {
            std::set_new_handler(nullptr);
        }
    });
    for (const NewForm &form : kNews) {
        SCOPED_TRACE(form.name);
        handler_calls = 0;
        Handler again(std::get_new_handler());
        if (form.throws) {
            EXPECT_THROW(form.call(Opaque(kTooLarge), 64), std::bad_alloc);
        } else {
            EXPECT_EQ(form.call(Opaque(kTooLarge), 64), nullptr);
        }
        EXPECT_EQ(handler_calls, 3);
    }
}

struct Special : std::bad_alloc {};

TEST(OutOfMemory, HandlerThatThrows) {
    Handler thrower([] {
        handler_calls++;
        throw Special();
    });
    for (const NewForm &form : kNews) {
        SCOPED_TRACE(form.name);
        handler_calls = 0;
        if (form.throws) {
            EXPECT_THROW(form.call(Opaque(kTooLarge), 64), Special);
        } else {
            EXPECT_EQ(form.call(Opaque(kTooLarge), 64), nullptr);
        }
        EXPECT_EQ(handler_calls, 1);
    }
}

void *reserve;

TEST(OutOfMemory, HandlerThatFreesMemory) {
    // The limit is set so that the allocation can only be met once the reserve is given up.
    constexpr size_t kReserve = size_t{512} << 20;
    EXPECT_EQ(test_util::InChild([] {
                  reserve = malloc(kReserve);
                  if (reserve == nullptr) {
                      return 10;
                  }
                  struct rlimit limit;
                  getrlimit(RLIMIT_AS, &limit);
                  limit.rlim_cur = test_util::StatusBytes("VmSize:") + (kReserve / 8);
                  if (setrlimit(RLIMIT_AS, &limit) != 0) {
                      return 11;
                  }
                  std::set_new_handler([] {
                      handler_calls++;
                      if (reserve == nullptr) {
                          throw std::bad_alloc();
                      }
                      free(reserve);
                      reserve = nullptr;
                  });
                  for (const NewForm &form : kNews) {
                      handler_calls = 0;
                      void *p = nullptr;
                      try {
                          p = form.call(kReserve - (size_t{1} << 20), 64);
                      } catch (const std::bad_alloc &) {
                          return 12;
                      }
                      if (p == nullptr) {
                          return 13;
                      }
                      if (handler_calls != 1 || reserve != nullptr) {
                          return 14;
                      }
                      memset(p, 1, 4096);
                      reserve = p; // what this form got is the next one's reserve
                  }
                  return 0;
              }),
              "exit 0");
}

TEST(OutOfMemory, ProgramGoesOn) {
    std::vector<std::unique_ptr<std::string>> strings;
    for (int i = 0; i < 1000; i++) {
        EXPECT_THROW(static_cast<void>(::operator new(Opaque(kTooLarge))), std::bad_alloc);
        strings.push_back(std::make_unique<std::string>(200, 'x'));
    }
    for (const auto &s : strings) {
        EXPECT_EQ(*s, std::string(200, 'x'));
    }
}

struct alignas(256) Wide {
    char bytes[300];
    int *count;
    explicit Wide(int *c) : count(c) { ++*count; }
    ~Wide() { --*count; }
};

TEST(Expressions, NewAndDeleteOfTypes) {
    int count = 0;
    size_t live = Live();
    Wide *one = new Wide(&count);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(one) % 256, 0u);
    Wide *many = new Wide[3]{Wide(&count), Wide(&count), Wide(&count)};
    EXPECT_EQ(reinterpret_cast<uintptr_t>(many) % 256, 0u);
    EXPECT_EQ(count, 4);
    delete one;
    delete[] many;
    EXPECT_EQ(count, 0);
    std::string *strings = new std::string[100];
    delete[] strings;
    EXPECT_EQ(Live(), live);
    volatile ptrdiff_t negative = -1;
    EXPECT_THROW(static_cast<void>(new int[static_cast<size_t>(negative)]), std::bad_alloc);
}

TEST(Expressions, ConstructorThatThrowsGivesTheBlockBack) {
    struct Thrower {
        char bytes[500];
        Thrower() { throw 1; }
    };
    EXPECT_THROW(new Thrower, int); // the exception object is allocated and stays for a while
    size_t live = Live();
    for (int i = 0; i < 1000; i++) {
        try {
            delete new Thrower;
            FAIL();
        } catch (int) {
        }
    }
    EXPECT_EQ(Live(), live);
}

TEST(Containers, GiveEverythingBack) {
    size_t live = Live();
    {
        std::map<int, std::string> tree;
        std::unordered_map<std::string, std::vector<int>> table;
        for (int i = 0; i < 20000; i++) {
            tree[i * 7919 % 20000] = std::string(static_cast<size_t>(i) % 97, 'a');
            table["key " + std::to_string(i % 5000)].push_back(i);
        }
        size_t sum = 0;
        for (const auto &entry : table) {
            sum += entry.second.size();
        }
        EXPECT_EQ(sum, 20000u);
        EXPECT_EQ(tree.size(), 20000u);
        EXPECT_GT(Live(), live + 20000 * 64);
    }
    EXPECT_EQ(Live(), live);
}

} // namespace
