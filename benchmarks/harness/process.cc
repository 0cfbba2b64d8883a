// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <sstream>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bench {
namespace {

namespace fs = std::filesystem;

class Pipe {
  public:
    Pipe() {
        if (pipe2(ends_.data(), O_CLOEXEC) != 0) {
            std::perror("pipe");
            std::exit(1);
        }
    }
    ~Pipe() {
        close_end(0);
        close_end(1);
    }
    Pipe(const Pipe &) = delete;
    Pipe &operator=(const Pipe &) = delete;
    int read_end() const { return ends_[0]; }
    int write_end() const { return ends_[1]; }
    void close_end(size_t i) {
        if (ends_[i] >= 0) {
            close(ends_[i]);
            ends_[i] = -1;
        }
    }

  private:
    std::array<int, 2> ends_ = {-1, -1};
};

std::vector<char *> pointers(const std::vector<std::string> &strings) {
    std::vector<char *> list;
    for (const std::string &text : strings) {
        list.push_back(const_cast<char *>(text.c_str()));
    }
    list.push_back(nullptr);
    return list;
}

void set_variable(std::vector<std::string> *environment, const std::string &variable) {
    const std::string key = variable.substr(0, variable.find('=') + 1);
    for (std::string &other : *environment) {
        if (other.compare(0, key.size(), key) == 0) {
            other = variable;
            return;
        }
    }
    environment->push_back(variable);
}

std::vector<std::string> child_environment(const Command &command, const Allocator &allocator) {
    std::vector<std::string> environment;
    for (char **at = environ; *at != nullptr; at++) {
        if (std::strncmp(*at, "LD_PRELOAD=", 11) != 0) {
            environment.emplace_back(*at);
        }
    }
    for (const auto &list : {command.environment, allocator.environment}) {
        for (const std::string &variable : list) {
            set_variable(&environment, variable);
        }
    }
    if (!allocator.preload.empty()) {
        environment.push_back("LD_PRELOAD=" + allocator.preload);
    }
    return environment;
}

// In the child, between fork and exec.
[[noreturn]] void become(const Command &command, char **argv, char **environment, int out, int err,
                         int usage, int usage_as) {
    setpgid(0, 0); // a timeout kills the whole group
    const char *input = command.input.empty() ? "/dev/null" : command.input.c_str();
    const int in = open(input, O_RDONLY | O_CLOEXEC);
    if (in < 0 || (!command.directory.empty() && chdir(command.directory.c_str()) != 0)) {
        dprintf(err, "%s: %s\n", in < 0 ? input : command.directory.c_str(), std::strerror(errno));
        _exit(127);
    }
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    if (usage == usage_as) {
        fcntl(usage, F_SETFD, 0);
    } else {
        dup2(usage, usage_as);
    }
    execve(argv[0], argv, environment);
    dprintf(2, "%s: %s\n", argv[0], std::strerror(errno));
    _exit(127);
}

std::string last_line(const std::string &text) {
    std::istringstream lines(text);
    std::string last;
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty()) {
            last = line;
        }
    }
    return last;
}

std::string describe_status(int status) {
    if (WIFSIGNALED(status)) {
        return std::string("killed by ") + strsignal(WTERMSIG(status));
    }
    return "exit status " + std::to_string(WEXITSTATUS(status));
}

} // namespace

uint64_t meminfo_mib(const std::string &key) {
    std::ifstream file("/proc/meminfo");
    uint64_t kib = 0;
    for (std::string word; file >> word;) {
        if (word == key + ":" && file >> kib) {
            break;
        }
    }
    return kib / 1024;
}

namespace {

// Touches memory and gives it back; at most three quarters of what is available.
void warm_memory(uint64_t mib) {
    constexpr size_t kHuge = size_t{2} << 20;
    const size_t bytes = std::min(mib, meminfo_mib("MemAvailable") / 4 * 3) << 20;
    void *start =
        mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        return;
    }
    madvise(start, bytes + kHuge, MADV_HUGEPAGE);
    memset(start, 1, bytes);
    munmap(start, bytes + kHuge);
}

} // namespace

Outcome run(const Command &command, const Allocator &allocator) {
    constexpr int kUsageFd = 100; // out of the way of what the driver has open
    Outcome outcome;
    const std::string launcher = built_file("benchmarks/harness/launch");
    if (launcher.empty()) {
        outcome.error = "benchmarks/harness/launch is not among this build's files";
        return outcome;
    }
    std::vector<std::string> arguments = {launcher, std::to_string(kUsageFd)};
    if (command.address_space != 0) {
        arguments.insert(arguments.end(), {"-a", std::to_string(command.address_space)});
    }
    if (command.memory_left_mib != 0) {
        arguments.insert(arguments.end(), {"-m", std::to_string(command.memory_left_mib)});
    }
    if (command.memory_most_mib != 0) {
        arguments.insert(arguments.end(), {"-r", std::to_string(command.memory_most_mib)});
    }
    arguments.insert(arguments.end(), command.argv.begin(), command.argv.end());
    if (command.warm_mib != 0) {
        warm_memory(command.warm_mib);
    }
    const std::vector<std::string> environment = child_environment(command, allocator);
    const std::vector<char *> argv = pointers(arguments);
    const std::vector<char *> envp = pointers(environment);

    Pipe out;
    Pipe err;
    Pipe usage;
    const pid_t child = fork();
    if (child == 0) {
        become(command, const_cast<char **>(argv.data()), const_cast<char **>(envp.data()),
               out.write_end(), err.write_end(), usage.write_end(), kUsageFd);
    }
    if (child < 0) {
        outcome.error = std::string("fork: ") + std::strerror(errno);
        return outcome;
    }
    for (Pipe *one : {&out, &err, &usage}) {
        one->close_end(1);
    }
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + std::chrono::duration<double>(command.timeout_s);
    std::string usage_text;
    std::array<std::string *, 3> texts = {&outcome.out, &outcome.err, &usage_text};
    std::array<pollfd, 3> polls = {
        {{out.read_end(), POLLIN, 0}, {err.read_end(), POLLIN, 0}, {usage.read_end(), POLLIN, 0}}};
    bool timed_out = false;
    // The launcher's end closes `usage`; a daemon that keeps stdout open would never close that.
    while (polls[2].fd >= 0) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        if (left <= 0) {
            timed_out = true;
            kill(-child, SIGKILL);
            break;
        }
        if (poll(polls.data(), polls.size(), static_cast<int>(left) + 1) <= 0) {
            continue;
        }
        for (size_t i = 0; i < polls.size(); i++) {
            if (polls[i].fd >= 0 && polls[i].revents != 0) {
                std::array<char, 16384> buffer;
                const ssize_t length = read(polls[i].fd, buffer.data(), buffer.size());
                if (length > 0) {
                    texts[i]->append(buffer.data(), static_cast<size_t>(length));
                } else {
                    polls[i].fd = -1;
                }
            }
        }
    }
    // What is still in the pipes, without waiting for more.
    for (size_t i = 0; i < 2; i++) {
        if (polls[i].fd >= 0) {
            fcntl(polls[i].fd, F_SETFL, O_NONBLOCK);
            std::array<char, 16384> buffer;
            for (ssize_t length; (length = read(polls[i].fd, buffer.data(), buffer.size())) > 0;) {
                texts[i]->append(buffer.data(), static_cast<size_t>(length));
            }
        }
    }
    int launcher_status = 0;
    while (waitpid(child, &launcher_status, 0) < 0 && errno == EINTR) {
    }
    kill(-child, SIGKILL); // whoever it left behind
    if (timed_out) {
        outcome.error =
            "not done after " + std::to_string(static_cast<long>(command.timeout_s)) + " s, killed";
        return outcome;
    }
    std::istringstream figures(usage_text);
    double wall_ns = 0;
    double user_us = 0;
    double system_us = 0;
    int status = 0;
    if (!(figures >> wall_ns >> user_us >> system_us >> outcome.rss_kib >> outcome.faults >>
          status)) {
        outcome.error = last_line(outcome.err);
        if (outcome.error.empty()) {
            outcome.error = "launcher: " + describe_status(launcher_status);
        }
        return outcome;
    }
    outcome.wall_s = wall_ns / 1e9;
    outcome.cpu_s = (user_us + system_us) / 1e6;
    if (status != 0) {
        outcome.error = describe_status(status);
        const std::string line = last_line(outcome.err);
        if (!line.empty()) {
            outcome.error += ": " + line;
        }
    }
    return outcome;
}

Report parse_report(const std::string &out) {
    Report report;
    std::istringstream lines(out);
    for (std::string line; std::getline(lines, line);) {
        const size_t space = line.find(' ');
        if (space != std::string::npos) {
            report[line.substr(0, space)] = line.substr(space + 1);
        }
    }
    return report;
}

double report_number(const Report &report, const std::string &key) {
    const auto at = report.find(key);
    return at == report.end() ? 0 : std::strtod(at->second.c_str(), nullptr);
}

std::string check_allocator(const Report &report, const Allocator &allocator) {
    const auto from = report.find("malloc_from");
    const auto flavour = report.find("flavour");
    if (from == report.end() || flavour == report.end()) {
        return "the worker did not say who served it";
    }
    if (allocator.preload.empty()) {
        return fs::path(from->second).filename().string().rfind("libc.", 0) == 0
                   ? ""
                   : "served by " + from->second + " and not by the system's malloc";
    }
    std::error_code error;
    if (!fs::equivalent(from->second, allocator.preload, error) || error) {
        return "served by " + from->second + " and not by " + allocator.preload;
    }
    if (!allocator.flavour.empty() && flavour->second != allocator.flavour) {
        return "served by flavour " + flavour->second + " and not by " + allocator.flavour;
    }
    return "";
}

Outcome run_worker(const std::string &worker, const std::vector<std::string> &arguments,
                   const Allocator &allocator, Report *report, uint64_t warm_mib) {
    Command command;
    command.warm_mib = warm_mib;
    command.argv = {built_file("benchmarks/" + worker)};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    Outcome outcome;
    if (command.argv[0].empty()) {
        outcome.error = "benchmarks/" + worker + " is not among this build's files";
        return outcome;
    }
    outcome = run(command, allocator);
    if (outcome.error.empty()) {
        *report = parse_report(outcome.out);
        outcome.error = check_allocator(*report, allocator);
    }
    return outcome;
}

Sample Series::reported(const std::string &key) const {
    Sample sample;
    for (const Report &report : reports) {
        sample.push_back(report_number(report, key));
    }
    return sample;
}

static Sample sample_of(const std::vector<Outcome> &outcomes, double Outcome::*figure) {
    Sample sample;
    for (const Outcome &outcome : outcomes) {
        sample.push_back(outcome.*figure);
    }
    return sample;
}

Sample Series::wall_s() const {
    return sample_of(outcomes, &Outcome::wall_s);
}

Sample Series::cpu_s() const {
    return sample_of(outcomes, &Outcome::cpu_s);
}

double Series::peak_rss_kib() const {
    double most = 0;
    for (const Outcome &outcome : outcomes) {
        most = std::max(most, static_cast<double>(outcome.rss_kib));
    }
    return most;
}

double Series::most_faults() const {
    double most = 0;
    for (const Outcome &outcome : outcomes) {
        most = std::max(most, static_cast<double>(outcome.faults));
    }
    return most;
}

std::vector<size_t> order_of_round(size_t count, uint64_t round) {
    // 0, 1, count - 1, 2, count - 2 ...: all differences of neighbours differ; each round adds one.
    std::vector<size_t> order;
    for (size_t i = 0; i < count; i++) {
        const size_t from_start = (i + 1) / 2;
        order.push_back(((i % 2 != 0 ? from_start : count - from_start) + round) % count);
    }
    if (count % 2 != 0 && round % 2 != 0) {
        std::reverse(order.begin(), order.end());
    }
    return order;
}

std::string run_interleaved(const std::string &worker, const std::vector<std::string> &arguments,
                            const std::vector<Allocator> &allocators, uint64_t runs,
                            std::vector<Series> *series) {
    series->assign(allocators.size(), {});
    for (uint64_t round = 0; round < runs; round++) {
        for (const size_t at : order_of_round(allocators.size(), round)) {
            Report report;
            const Outcome outcome = run_worker(worker, arguments, allocators[at], &report);
            if (!outcome.error.empty()) {
                return allocators[at].name + ": " + outcome.error;
            }
            (*series)[at].outcomes.push_back(outcome);
            (*series)[at].reports.push_back(report);
        }
    }
    return "";
}

long count_syscalls(const Command &command, const Allocator &allocator, std::string *why) {
    const std::string strace = find_program("strace");
    if (strace.empty()) {
        *why = "strace is not installed (apt-get install strace)";
        return -1;
    }
    const ScratchDirectory scratch;
    const std::string table = scratch.path() + "/calls";
    Command traced = command;
    traced.argv = {strace, "-f", "-c", "-U", "calls,name", "-o", table};
    // strace itself keeps the driver's malloc.
    if (!allocator.preload.empty()) {
        traced.argv.insert(traced.argv.end(), {"-E", "LD_PRELOAD=" + allocator.preload});
    }
    traced.argv.insert(traced.argv.end(), command.argv.begin(), command.argv.end());
    Allocator plain = allocator;
    plain.preload.clear();
    const Outcome outcome = run(traced, plain);
    if (!outcome.error.empty()) {
        *why = "strace: " + outcome.error;
        return -1;
    }
    std::ifstream lines(table);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        long calls = 0;
        std::string name;
        if (words >> calls >> name && name == "total") {
            return calls;
        }
    }
    *why = "strace printed no total";
    return -1;
}

std::string find_program(const std::string &name) {
    const char *path = std::getenv("PATH");
    std::istringstream directories(std::string("/usr/bin:/bin:") + (path != nullptr ? path : ""));
    for (std::string directory; std::getline(directories, directory, ':');) {
        const std::string file = directory + "/" + name;
        if (!directory.empty() && access(file.c_str(), X_OK) == 0) {
            return file;
        }
    }
    return "";
}

ScratchDirectory::ScratchDirectory() {
    std::string name = fs::temp_directory_path() / "hakmem-benchmark-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
        std::perror(name.c_str());
        std::exit(1);
    }
    path_ = name;
}

ScratchDirectory::~ScratchDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
}

} // namespace bench
