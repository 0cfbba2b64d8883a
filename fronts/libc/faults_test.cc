// SPDX-License-Identifier: Apache-2.0
// Every system call may fail: faults_program is run once for each call that it makes, with that
// call failing (a complete sweep of single failures), with all calls failing from some call on,
// with addresses taken by other mappings, and with calls failing at random. Each run checks itself
// (see faults_program.c).
//
// The runs are processes of their own, so that the first calls fail too, those that libc makes
// before main(). A clock that moves only when the program looks at it makes a run with one thread
// repeat exactly, so a number of the sweep stands for the same call in each run.
//
//   FAULTS_EVERY=n    only every n-th of the single failures, and the other sweeps sparser if n is
//                     not 1. Default: 1; 8 in the hardened flavour and 24 in the others, because
//                     all of these have the same boxes beside the kernel
//   FAULTS_RANDOM=n   the number of random runs (30; 10 in those other flavours)
//   FAULTS_SEED=n     the seed of the first random run
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace {

using Environment = std::vector<std::string>;

constexpr char kProgram[] = "fronts/libc/faults_program_" HAK_FLAVOUR;

struct Outcome {
    std::string ending; // "exit 0", "signal 6", "hangs"
    std::string said;   // on stdout and stderr

    bool Good() const { return ending == "exit 0" && said.find("hakmem:") == std::string::npos; }
    // A number in the program's last line. A run that passes has all numbers.
    uint64_t Number(const std::string &name) const {
        size_t at = (" " + said).find(" " + name + "=");
        EXPECT_NE(at, std::string::npos) << name << " is not in " << said;
        return at == std::string::npos ? 0
                                       : strtoull(said.c_str() + at + name.size() + 1, nullptr, 10);
    }
};

Outcome RunProgram(const std::string &script, const char *mode, const Environment &environment) {
    std::string output = testing::TempDir() + "/output";
    std::string faulty = "HAK_FAULTY=" + script;
    std::vector<char *> envp = {const_cast<char *>(faulty.c_str()),
                                const_cast<char *>("HAK_FAULTY_CLOCK=1")};
    for (const std::string &entry : environment) {
        envp.push_back(const_cast<char *>(entry.c_str()));
    }
    envp.push_back(nullptr);
    char *const argv[] = {const_cast<char *>(kProgram), const_cast<char *>(mode), nullptr};

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output.c_str(),
                                     O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    pid_t pid;
    int error = posix_spawn(&pid, kProgram, &actions, nullptr, argv, envp.data());
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return {std::string("does not start: ") + strerror(error), ""};
    }
    Outcome run;
    int status = 0;
    // A run takes a fraction of a second. One that hangs must not take the other runs' results
    // with it.
    int waits = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, nullptr);
        if (++waits == 120000) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            run.ending = "hangs";
            break;
        }
    }
    if (run.ending.empty()) {
        run.ending = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                         : "exit " + std::to_string(WEXITSTATUS(status));
    }
    FILE *file = fopen(output.c_str(), "r");
    char text[4096];
    size_t length = fread(text, 1, sizeof text, file);
    fclose(file);
    run.said.assign(text, length);
    return run;
}

std::string Described(const std::string &script, const char *mode, const Environment &environment) {
    std::string text = "replay: ";
    for (const std::string &entry : environment) {
        text += entry + " ";
    }
    return text + "HAK_FAULTY_CLOCK=1 HAK_FAULTY=" + script + " bazel-bin/" + kProgram + " " + mode;
}

// Memory goes back at once; and: it stays, the settings ask for what is in files, and for huge
// pages.
const Environment kSettings[] = {
    {"HAKMEM_DECAY_MS=0"},
    {"HAKMEM_LIMIT=50%", "HAKMEM_THP=1"},
};

// Returns a number from the environment, or `otherwise` without one.
uint64_t Setting(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == nullptr ? otherwise : strtoull(text, nullptr, 0);
}

const bool kProduction = strcmp(HAK_FLAVOUR, "hakmem_c23_faulty") == 0;
const bool kHardened = strcmp(HAK_FLAVOUR, "hakmem_hardened_faulty") == 0;

uint64_t Every() {
    return Setting("FAULTS_EVERY", kProduction ? 1 : kHardened ? 8 : 24);
}

class FaultsTest : public testing::TestWithParam<int> {
  protected:
    // Runs one script and counts it. False if a run was bad.
    bool Try(const std::string &script, const char *mode) {
        const Environment &environment = kSettings[GetParam()];
        last_ = RunProgram(script, mode, environment);
        if (!last_.Good()) {
            ADD_FAILURE() << last_.ending << ": " << last_.said << "\n"
                          << Described(script, mode, environment);
            return false;
        }
        runs_++;
        failures_ += last_.Number("failures");
        refused_ += last_.Number("refused");
        return true;
    }
    void TearDown() override {
        printf("%s: %llu runs, %llu failures of the kernel, %llu calls of the program refused\n",
               HAK_FLAVOUR, static_cast<unsigned long long>(runs_),
               static_cast<unsigned long long>(failures_),
               static_cast<unsigned long long>(refused_));
    }
    Outcome last_;
    uint64_t runs_ = 0, failures_ = 0, refused_ = 0;
};

TEST_P(FaultsTest, EachCallAlone) {
    ASSERT_TRUE(Try("all:0", "alone"));
    uint64_t calls = last_.Number("calls");
    EXPECT_EQ(last_.Number("failures"), 0u);
    EXPECT_EQ(last_.Number("refused"), 0u);
    // The script reaches every call that the allocator makes with these settings.
    for (const char *kind : {"reserve", "map", "commit", "purge", "refresh", "move",
                             "address_limit", "physical_memory"}) {
        EXPECT_GT(last_.Number(kind), 0u) << kind;
    }
    if (GetParam() == 1) {
        EXPECT_GT(last_.Number("read_file"), 0u);
        EXPECT_GT(last_.Number("huge_pages"), 0u);
    }
    ASSERT_GT(calls, 100u);
    const uint64_t every = Every();
    ASSERT_GT(every, 0u);
    // To the end: a failure may make the program go other ways, and those longer.
    int bad = 0;
    for (uint64_t n = 1;; n += every) {
        bad += !Try("all:" + std::to_string(n), "alone");
        ASSERT_LE(bad, 5) << "and so on";
        if (last_.Good() && last_.Number("failures") == 0) {
            EXPECT_GE(n, calls / 2);
            break;
        }
    }
    EXPECT_GE(failures_, calls / 2 / every);
    EXPECT_EQ(refused_, 0u) << "what failed once is tried again before the program hears of it";
}

TEST_P(FaultsTest, AllFromOneCallOn) {
    int bad = 0;
    // The later ones are mostly alike: closer together where the heap comes to be.
    const uint64_t spread = Every() == 1 ? 16 : 4;
    for (uint64_t n = 1; n < 400 && bad <= 5; n += 1 + n / spread) {
        bad += !Try("all:" + std::to_string(n) + "-", "alone");
    }
    EXPECT_GT(refused_, failures_ / 1000);
}

TEST_P(FaultsTest, OneKindNeverWorks) {
    for (const char *kind :
         {"reserve", "map", "commit", "decommit", "purge", "refresh", "move", "release",
          "huge_pages", "address_limit", "physical_memory", "read_file", "forbid", "hide",
          "purge,refresh,move", "commit,hide,forbid"}) {
        Try(std::string(kind) + ":1-", "alone");
    }
}

TEST_P(FaultsTest, AddressesThatOthersHaveTaken) {
    int bad = 0;
    const uint64_t step = 1 + Every() / 4;
    uint64_t n = 1;
    do {
        bad += !Try("reserve,map:" + std::to_string(n) + ":taken", "alone");
        bad += !Try("reserve,map:" + std::to_string(n) + "-" + std::to_string(n + 20) + ":taken",
                    "alone");
        n += step;
    } while (bad <= 5 && !(last_.Good() && last_.Number("failures") == 0));
    EXPECT_GT(failures_, 20u);
}

TEST_P(FaultsTest, SeveralAtRandom) {
    const uint64_t runs = Setting("FAULTS_RANDOM", kProduction || kHardened ? 30 : 10);
    const uint64_t seed = Setting("FAULTS_SEED", 1);
    static constexpr int kPpm[] = {3000, 10000, 50000, 200000, 600000};
    int bad = 0;
    for (uint64_t i = 0; i < runs && bad <= 5; i++) {
        std::string chance = std::to_string(kPpm[i % 5]) + "," + std::to_string(seed + i);
        bad += !Try("all:random=" + chance, i % 2 == 0 ? "alone" : "threads");
    }
    EXPECT_GT(failures_, runs);
}

INSTANTIATE_TEST_SUITE_P(Settings, FaultsTest, testing::Values(0, 1));

} // namespace
