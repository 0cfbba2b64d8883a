// SPDX-License-Identifier: Apache-2.0
// Programs under seccomp filters, which forbid system calls that an allocator makes or might make.
// The program itself or its parent installs the filter, which answers with an errno or kills.
//
// Kernels that lack a feature (older ones, or emulations) answer in the same way. For these tests
// the library is told that there is no filter.
//
// sandbox_program does the work. libc's malloc passes these tests too, unless munmap() or mremap()
// is fatal, which it calls itself.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

namespace {

constexpr int kUnfiltered = 127;

// What asks the kernel is the same in all flavours: one of them is tried in all ways.
const bool kAllWays = std::string(HAK_FLAVOUR) == "hakmem_c23";
constexpr char kOtherFlavour[] = "what asks the kernel is the same in all flavours";

// The system calls of the allocator; of these, those that a program's start needs as well.
constexpr int kCalls[] = {
    SYS_madvise, SYS_mprotect,  SYS_mremap,  SYS_munmap,
    SYS_openat,  SYS_prlimit64, SYS_sysinfo, 440 /* process_madvise */,
};
constexpr int kStart[] = {SYS_mprotect, SYS_munmap, SYS_openat, SYS_prlimit64};

// The calls that the library might make, and those of them that only a program's start needs.
const std::vector<int> kOthers = {
    SYS_mincore,        SYS_msync,  SYS_mlock,     SYS_prctl,        SYS_seccomp,
    SYS_membarrier,     SYS_open,   SYS_fcntl,     SYS_sched_yield,  SYS_sched_getaffinity,
    SYS_clock_gettime,  SYS_clone,  SYS_nanosleep, 435 /* clone3 */, SYS_process_vm_readv,
    SYS_rt_sigprocmask, SYS_getpid, SYS_gettid,    SYS_rt_sigaction, SYS_userfaultfd,
};
const std::vector<int> kStartOthers = {
    SYS_read, SYS_close, SYS_brk, SYS_futex, SYS_getrandom, SYS_set_robust_list, SYS_pread64,
};

bool starts_with(int number) {
    for (int call : kStart) {
        if (call == number) {
            return true;
        }
    }
    return false;
}

std::string program() {
    return "fronts/libc/sandbox_program_" HAK_FLAVOUR;
}

struct Run {
    const char *when;
    std::string way;
    const char *states;
    std::vector<int> numbers;
    std::vector<std::string> features{}; // calls with an argument, as the program has them
};

// "" if all was well.
std::string run(const Run &what, const char *variable = "HAKMEM_DECAY_MS=20") {
    std::vector<std::string> words = {program(), what.when, what.way, what.states};
    for (int number : what.numbers) {
        words.push_back(std::to_string(number));
    }
    words.insert(words.end(), what.features.begin(), what.features.end());
    std::vector<char *> argv;
    for (std::string &word : words) {
        argv.push_back(&word[0]);
    }
    argv.push_back(nullptr);
    pid_t id = fork();
    if (id == 0) {
        char decay[] = "HAKMEM_DECAY_MS=20";
        char *environment[] = {decay, const_cast<char *>(variable), nullptr};
        execve(argv[0], argv.data(), environment);
        _exit(kUnfiltered);
    }
    int status = 0;
    EXPECT_EQ(waitpid(id, &status, 0), id);
    if (WIFSIGNALED(status)) {
        return "signal " + std::to_string(WTERMSIG(status));
    }
    int code = WEXITSTATUS(status);
    return code == 0             ? ""
           : code == kUnfiltered ? "not filtered"
                                 : "check in line " + std::to_string(code - 1) + " (modulo 120)";
}

class Sandbox : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        // The hardened one asks for guard pages, too.
        if (!kAllWays && std::string(HAK_FLAVOUR) != "hakmem_hardened") {
            GTEST_SKIP() << kOtherFlavour;
        }
    }
};

TEST_P(Sandbox, ACallRefusedByTheProcessItself) {
    EXPECT_EQ(run({"prctl", std::to_string(EPERM), "hlbf", {GetParam()}}), "");
    EXPECT_EQ(run({"syscall", std::to_string(ENOSYS), "hlbf", {GetParam()}}), "");
}

TEST_P(Sandbox, ACallThatTheProcessMakesFatal) {
    EXPECT_EQ(run({"prctl", "kill", "hlbf", {GetParam()}}), "");
}

TEST_P(Sandbox, ACallRefusedBeforeTheStart) {
    for (int error : {EPERM, ENOSYS}) {
        bool needed = starts_with(GetParam()) && GetParam() != SYS_munmap;
        if (!needed) {
            EXPECT_EQ(run({"exec", std::to_string(error), "hlbf", {GetParam()}}), "") << error;
        }
    }
}

TEST_P(Sandbox, ACallFatalBeforeTheStart) {
    if (!starts_with(GetParam())) {
        // libc's malloc calls mremap() for the largest.
        const char *states = GetParam() == SYS_mremap ? "hlf" : "hlbf";
        EXPECT_EQ(run({"exec", "kill", states, {GetParam()}}), "");
    }
}

INSTANTIATE_TEST_SUITE_P(Call, Sandbox, testing::ValuesIn(kCalls),
                         [](const testing::TestParamInfo<int> &call) {
                             return std::to_string(call.param);
                         });

// What a forbidden call gets: of another flavour, what nobody survives.
std::vector<const char *> Ways() {
    return kAllWays ? std::vector<const char *>{"1", "38", "kill"}
                    : std::vector<const char *>{"kill"};
}

TEST(SandboxTest, OtherCalls) {
    std::vector<int> late = kOthers;
    late.insert(late.end(), kStartOthers.begin(), kStartOthers.end());
    for (const char *way : Ways()) {
        EXPECT_EQ(run({"prctl", way, "hlbf", late}), "") << way;
        EXPECT_EQ(run({"exec", way, "hlbf", kOthers}), "") << way;
    }
}

// The calls of the program itself.
#define SANDBOX_OWN_CALLS SYS_exit_group, SYS_clock_nanosleep, SYS_mmap

TEST(SandboxTest, NothingButMmapIsNeededAfterTheProcessHasFilteredItself) {
    for (const char *when : {"prctl", "syscall"}) {
        EXPECT_EQ(run({when, "only", "hlbf", {SANDBOX_OWN_CALLS}}), "") << when;
    }
}

TEST(SandboxTest, NothingButWhatAStartNeedsIsNeededAfterIt) {
    EXPECT_EQ(run({"exec", "only", "hlf", {SANDBOX_OWN_CALLS,
                                           SYS_execve,
                                           SYS_brk,
                                           SYS_munmap,
                                           SYS_mprotect,
                                           SYS_openat,
                                           SYS_read,
                                           SYS_pread64,
                                           SYS_close,
                                           SYS_fstat,
                                           SYS_newfstatat,
                                           SYS_access,
                                           SYS_arch_prctl,
                                           SYS_set_tid_address,
                                           SYS_set_robust_list,
                                           334 /* rseq */,
                                           SYS_prlimit64,
                                           SYS_getrandom,
                                           SYS_readlink,
                                           SYS_futex}}),
              "");
}

TEST(SandboxTest, MemoryGoesBack) {
    for (const char *when : {"prctl", "syscall", "exec"}) {
        for (const char *way : {"kill", "1", "38"}) {
            EXPECT_EQ(run({when, way, "r", {SYS_madvise}}), "") << when << " " << way;
        }
    }
}

TEST(SandboxTest, ThreadsAndChildren) {
    for (const char *when : {"prctl", "syscall", "exec"}) {
        for (const char *way : Ways()) {
            // A thread that ends calls madvise(), and one that starts mprotect().
            EXPECT_EQ(run({when, way, "hthlc", {440, SYS_mincore, SYS_sysinfo, SYS_fcntl}}), "")
                << when << " " << way;
            EXPECT_EQ(run({when, way, "hlc", {440, SYS_madvise, SYS_sysinfo}}), "")
                << when << " " << way;
        }
    }
}

TEST(SandboxTest, TheSettingSaysThatThereIsOne) {
    EXPECT_EQ(run({"exec", "filtered", "hlbfthlcr", {}}, "HAKMEM_SANDBOX=1"), "");
    EXPECT_EQ(run({"exec", "filtered", "hlbfthlcr", {}}, "HAKMEM_SANDBOX=0"), "");
    EXPECT_EQ(run({"exec", "filtered", "hlbfthlcr", {}}, "HAKMEM_SANDBOX=2"), "");
}

TEST(SandboxTest, TheSettingSaysThatThereIsNone) {
    EXPECT_EQ(run({"prctl", "kill", "r", {SYS_madvise}}, "HAKMEM_SANDBOX=0"), "signal 31");
}

std::string with(int number, int argument, int mask, int value) {
    return std::to_string(number) + ":" + std::to_string(argument) + ":" + std::to_string(mask) +
           ":" + std::to_string(value);
}
std::string advice(int value) {
    return with(SYS_madvise, 2, -1, value);
}

// Features that a kernel may lack, and its answers then.
const struct Feature {
    const char *name;
    std::vector<int> calls;
    std::vector<std::string> features;
    std::vector<int> errors;
} kFeatures[] = {
    {"MAP_FIXED_NOREPLACE",
     {},
     {with(SYS_mmap, 3, 0x100000, 0x100000)},
     {EINVAL, EOPNOTSUPP, ENOSYS}},
    {"MREMAP_DONTUNMAP", {}, {with(SYS_mremap, 3, 4, 4)}, {EINVAL, ENOSYS}}, // 5.7
    {"TransparentHugePages", {}, {advice(14), advice(15)}, {EINVAL}},
    {"MADV_DONTNEED", {}, {advice(4)}, {EINVAL, ENOSYS}},
    {"OtherAdvice", // FREE, COLD, PAGEOUT, POPULATE_READ and _WRITE, COLLAPSE; names of mappings
     {},
     {advice(8), advice(20), advice(21), advice(22), advice(23), advice(25),
      with(SYS_prctl, 0, -1, 0x53564d41)},
     {EINVAL}},
    {"LaterCalls", // process_madvise, membarrier, rseq, getrandom, clone3, memfd_create, statx
     {440, SYS_membarrier, 334, SYS_getrandom, 435, 319, 332, SYS_userfaultfd},
     {},
     {ENOSYS}}, // libc itself asks no other way after EINVAL
    {"CallsThatTell",
     {SYS_mincore, SYS_sysinfo, SYS_getrusage, SYS_sched_getaffinity},
     {},
     {ENOSYS, EINVAL}},
    {"Limits", {SYS_prlimit64}, {}, {ENOSYS}},
};

class Kernel : public testing::TestWithParam<Feature> {};

TEST_P(Kernel, MayLackIt) {
    if (!kAllWays) {
        GTEST_SKIP() << kOtherFlavour;
    }
    const Feature &feature = GetParam();
    for (int error : feature.errors) {
        EXPECT_EQ(run({"exec", std::to_string(error), "hlbt", feature.calls, feature.features},
                      "HAKMEM_SANDBOX=0"),
                  "")
            << error;
    }
}

INSTANTIATE_TEST_SUITE_P(Feature, Kernel, testing::ValuesIn(kFeatures),
                         [](const testing::TestParamInfo<Feature> &feature) {
                             return feature.param.name;
                         });

} // namespace
