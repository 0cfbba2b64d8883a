// SPDX-License-Identifier: Apache-2.0
// What others' users have reported of their allocators, each kind a program of this folder that
// shows several ways of it. Each is fine on glibc's malloc, and is to be on this one: preloaded,
// and behind a tracer.
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <ostream>
#include <string>

#include "fronts/reports/reports.h"
#include "gtest/gtest.h"

namespace {

using reports::Outcome;
using reports::Shell;

const Outcome kFine("exit 0", "");

struct Way {
    const char *program;
    const char *way;
};

std::ostream &operator<<(std::ostream &out, const Way &way) {
    return out << way.program << " " << way.way;
}

class ReportsTest : public testing::TestWithParam<Way> {
  protected:
    std::string Command() const {
        return reports::Path(GetParam().program) + " " + GetParam().way + " " +
               reports::Path("libtls_library.so");
    }
};

std::string Name(const testing::TestParamInfo<Way> &param) {
    return std::string(param.param.program) + "_" + param.param.way;
}

INSTANTIATE_TEST_SUITE_P(ManyThreads, ReportsTest,
                         testing::Values(Way{"many_threads", "at_once"},
                                         Way{"many_threads", "churn"},
                                         Way{"many_threads", "detached"}),
                         Name);

INSTANTIATE_TEST_SUITE_P(Exits, ReportsTest,
                         testing::Values(Way{"exits", "at_return"}, Way{"exits", "at_exit"},
                                         Way{"exits", "by_quick_exit"},
                                         Way{"exits", "among_threads"}, Way{"exits", "by_thread"},
                                         Way{"exits", "first_thread_gone"},
                                         Way{"exits", "thread_data"}, Way{"exits", "by_signal"}),
                         Name);

INSTANTIATE_TEST_SUITE_P(
    HeapPages, ReportsTest,
    testing::Values(Way{"heap_pages", "dontfork"}, Way{"heap_pages", "wipeonfork"},
                    Way{"heap_pages", "protected_pages"}, Way{"heap_pages", "guard_page"},
                    Way{"heap_pages", "advised"}, Way{"heap_pages", "locked"},
                    Way{"heap_pages", "mapped_over"}, Way{"heap_pages", "userfault"}),
    Name);

INSTANTIATE_TEST_SUITE_P(Cores, ReportsTest,
                         testing::Values(Way{"core_size", "small"}, Way{"core_size", "real"}),
                         Name);

INSTANTIATE_TEST_SUITE_P(Stacks, ReportsTest,
                         testing::Values(Way{"stacks", "coroutines_move"},
                                         Way{"stacks", "one_thread"}, Way{"stacks", "set_context"},
                                         Way{"stacks", "alternative"}, Way{"stacks", "jump_out"},
                                         Way{"stacks", "heap_stack"}),
                         Name);

INSTANTIATE_TEST_SUITE_P(Cancel, ReportsTest,
                         testing::Values(Way{"cancel", "deferred"}, Way{"cancel", "midway"},
                                         Way{"cancel", "handlers"}, Way{"cancel", "disabled"}),
                         Name);

INSTANTIATE_TEST_SUITE_P(
    Children, ReportsTest,
    testing::Values(Way{"children", "vforked"}, Way{"children", "vforked_among_threads"},
                    Way{"children", "clone_vm"}, Way{"children", "clone_vm_among_threads"},
                    Way{"children", "clone_copy"}, Way{"children", "forks"},
                    Way{"children", "forks_among_threads"}, Way{"children", "spawned"}),
    Name);

INSTANTIATE_TEST_SUITE_P(Mistakes, ReportsTest,
                         testing::Values(Way{"mistakes", "foreign_keys"},
                                         Way{"mistakes", "too_much"}, Way{"mistakes", "sizes"}),
                         Name);

INSTANTIATE_TEST_SUITE_P(
    Restricted, ReportsTest,
    testing::Values(Way{"restricted", "no_counter"}, Way{"restricted", "strict"},
                    Way{"restricted", "no_new_privileges"}, Way{"restricted", "no_writable_code"},
                    Way{"restricted", "sealed"}, Way{"restricted", "linker_locked"}),
    Name);

INSTANTIATE_TEST_SUITE_P(Services, ReportsTest,
                         testing::Values(Way{"services", "locales"}, Way{"services", "conversions"},
                                         Way{"services", "names"}, Way{"services", "in_threads"},
                                         Way{"services", "containers"},
                                         Way{"services", "thread_local_data"},
                                         Way{"services", "namespaces"},
                                         Way{"services", "search_paths"}),
                         Name);

TEST_P(ReportsTest, IsFineOnTheSystemsMalloc) {
    if (std::string(HAK_FLAVOUR) != "hakmem_c23") {
        GTEST_SKIP() << "the system's malloc is the same beside all flavours";
    }
    EXPECT_EQ(Shell(Command()), kFine);
}

TEST_P(ReportsTest, IsFineWithTheLibraryPreloaded) {
    EXPECT_EQ(reports::ShellPreloaded(Command()), kFine);
}

TEST_P(ReportsTest, IsFineWithATracerInFront) {
    EXPECT_EQ(Shell("LD_PRELOAD=" + reports::Path("libloading_tracer.so") + ":" +
                    reports::Library() + " " + Command()),
              kFine);
}

// --- Auditors, and the dynamic linker's own reports

TEST(AuditTest, AnAuditorHasANamespaceOfItsOwn) {
    for (const char *way : {"names", "conversions", "thread_local_data", "search_paths"}) {
        const std::string command = "LD_AUDIT=" + reports::Path("libauditor.so") + " " +
                                    reports::Path("services") + " " + way + " " +
                                    reports::Path("libtls_library.so");
        EXPECT_EQ(Shell(command), kFine) << way;
        EXPECT_EQ(reports::ShellPreloaded(command), kFine) << way;
        EXPECT_EQ(reports::ShellPreloaded("LD_BIND_NOW=1 " + command), kFine) << way;
    }
}

TEST(AuditTest, TheDynamicLinkerTellsWhatItDoes) {
    const std::string command =
        "LD_DEBUG=all LD_DEBUG_OUTPUT=/dev/null " + reports::Path("services") + " search_paths";
    EXPECT_EQ(reports::ShellPreloaded(command).first, "exit 0");
    EXPECT_EQ(reports::ShellPreloaded("LD_TRACE_LOADED_OBJECTS=1 " + command).first, "exit 0");
}

// --- Another allocator behind this one

TEST(BehindTest, StringsAreOfTheFirstMalloc) {
    for (const char *way : {"containers", "locales"}) {
        EXPECT_EQ(Shell("LD_PRELOAD=" + reports::Library() + ":" +
                        reports::Path("libstrings_library.so") + " " + reports::Path("services") +
                        " " + way),
                  kFine)
            << way;
    }
}

// --- The table of statistics and the program's descriptors

class DescriptorsTest : public testing::TestWithParam<const char *> {};

INSTANTIATE_TEST_SUITE_P(Ways, DescriptorsTest,
                         testing::Values("daemon_like", "closed", "reused", "all_reused",
                                         "as_sockets", "lowest", "executed", "no_reader"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

TEST_P(DescriptorsTest, StatisticsGoToStderrAsItWasOrNowhere) {
    std::string folder = "/tmp/descriptors.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    const std::string file = folder + "/file";
    const Outcome outcome = reports::ShellPreloaded(
        "HAKMEM_STATS=1 " + reports::Path("descriptors") + " " + GetParam() + " " + file);
    EXPECT_EQ(outcome.first, "exit 0") << outcome.second;
    std::ifstream in(file);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "") << "the program's own file";
    unlink(file.c_str());
    rmdir(folder.c_str());
    // Stderr is still there for these, under the number that the allocator has kept.
    const std::string way = GetParam();
    if (way == "closed" || way == "reused" || way == "lowest") {
        EXPECT_NE(outcome.second.find("hakmem statistics"), std::string::npos);
    }
}

// --- Times that another library makes up

TEST(ClockTest, IsTheKernels) {
    // The library's clock_gettime() allocates, and says that it has been called from malloc.
    EXPECT_EQ(Shell("LD_PRELOAD=" + reports::Path("libclock.so") + ":" + reports::Library() + " " +
                    reports::Path("services") + " containers"),
              kFine);
}

} // namespace
