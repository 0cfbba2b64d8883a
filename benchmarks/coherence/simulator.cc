// SPDX-License-Identifier: Apache-2.0
// simulator: one workload on one instrumented allocator with so many cores. Prints JSON: what moved
// between the cores' caches, by kind of operation, by place in the code and by line of memory.
// coherence.py runs it for each cell of a table.
#include "benchmarks/coherence/machine.h"
#include "benchmarks/coherence/workloads.h"

#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/report.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/personality.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

using namespace coherence;
using bench::Json;

namespace {

std::string library, prefix;

struct Object {
    uintptr_t base = 0, end = 0;
} object;

int find_object(struct dl_phdr_info *info, size_t, void *) {
    char real[4096];
    if (info->dlpi_name[0] == '\0' || realpath(info->dlpi_name, real) == nullptr ||
        library != real) {
        return 0;
    }
    object.base = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_LOAD) {
            object.end = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
        }
    }
    return 1;
}

Allocator load() {
    void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        std::fprintf(stderr, "coherence: %s\n", dlerror());
        std::exit(1);
    }
    auto *allocate = dlsym(handle, (prefix + "malloc").c_str());
    auto *release = dlsym(handle, (prefix + "free").c_str());
    if (allocate == nullptr || release == nullptr) {
        std::fprintf(stderr, "coherence: %s: no %smalloc or %sfree\n", library.c_str(),
                     prefix.c_str(), prefix.c_str());
        std::exit(1);
    }
    dl_iterate_phdr(find_object, nullptr);
    return {reinterpret_cast<void *(*)(size_t)>(allocate),
            reinterpret_cast<void (*)(void *)>(release)};
}

// "+1234" in the library, or the address.
std::string place(uintptr_t at) {
    return at >= object.base && at < object.end ? bench::format("+0x%lx", at - object.base)
           : at == 0                            ? "program"
                                                : bench::format("0x%lx", at);
}

Json counts_json(const Counts &counts) {
    return Json::object({{"accesses", static_cast<double>(counts.accesses)},
                         {"cold", static_cast<double>(counts.cold)},
                         {"fetches", static_cast<double>(counts.fetches)},
                         {"upgrades", static_cast<double>(counts.upgrades)},
                         {"transfers", static_cast<double>(counts.transfers())},
                         {"invalidations", static_cast<double>(counts.invalidations)},
                         {"failed", static_cast<double>(counts.failed)},
                         {"calls", static_cast<double>(counts.calls)},
                         {"wait_ns", static_cast<double>(counts.wait) / 1000}});
}

template <class Value, class Weight>
std::vector<std::pair<uintptr_t, Value>> heaviest(const std::map<uintptr_t, Value> &all,
                                                  size_t most, Weight weight) {
    std::vector<std::pair<uintptr_t, Value>> sorted(all.begin(), all.end());
    std::stable_sort(sorted.begin(), sorted.end(), [&weight](const auto &a, const auto &b) {
        return weight(a.second) > weight(b.second);
    });
    sorted.resize(std::min(most, sorted.size()));
    return sorted;
}

uint64_t total(const std::map<uintptr_t, uint64_t> &places) {
    uint64_t sum = 0;
    for (const auto &[pc, times] : places) {
        sum += times;
    }
    return sum;
}

Json sites_json(const Machine &run) {
    constexpr size_t kMost = 200;
    std::vector<Json> items;
    for (const auto &[pc, counts] :
         heaviest(run.sites(), kMost, [](const Counts &c) { return c.transfers() + c.failed; })) {
        items.push_back(Json::object({{"place", place(pc)}, {"counts", counts_json(counts)}}));
    }
    return Json::array(items);
}

Json lines_json(const Machine &run) {
    constexpr size_t kMost = 30;
    constexpr size_t kPlaces = 6;
    std::vector<Json> items;
    for (const auto &[line, places] : heaviest(run.lines(), kMost, total)) {
        std::vector<Json> by;
        for (const auto &[pc, times] : heaviest(places, kPlaces, [](uint64_t n) { return n; })) {
            by.push_back(
                Json::object({{"place", place(pc)}, {"transfers", static_cast<double>(times)}}));
        }
        items.push_back(Json::object({{"line", place(line)},
                                      {"transfers", static_cast<double>(total(places))},
                                      {"by", Json::array(by)}}));
    }
    return Json::array(items);
}

// Addresses decide which bits a hash has: without chance in them, and with room for the libraries'
// thread-local variables, a run is the same each time.
void without_chance(char **argv) {
    const int now = personality(0xffffffff);
    if (getenv("COHERENCE_CHILD") == nullptr && now != -1) {
        personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE);
        setenv("COHERENCE_CHILD", "1", 1);
        setenv("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=65536", 1);
        execv("/proc/self/exe", argv);
    }
}

} // namespace

int main(int argc, char **argv) {
    without_chance(argv);
    std::string name = "mixed";
    Machine::Setup setup;
    uint64_t cores = 2;
    uint64_t sockets = 1;
    uint64_t scale = 100;
    std::string names;
    for (const Workload &workload : workloads()) {
        names += (names.empty() ? "" : ", ") + workload.name;
    }
    bench::Flags flags("simulator", "Which lines of memory move between cores, on a machine of "
                                    "virtual cores.\nWorkloads: " +
                                        names);
    flags.text("library", "FILE", &library, "the instrumented allocator, a shared object");
    flags.text("prefix", "NAME", &prefix, "what its malloc and free have before their names");
    flags.text("workload", "NAME", &name, "which (default mixed)");
    flags.number("cores", 1, kMostCores, &cores, "virtual cores (default 2)");
    flags.number("sockets", 1, 2, &sockets, "the second half of the cores is in the second");
    flags.number("seed", 0, UINT64_MAX, &setup.seed, "of sizes and orders (default 1)");
    flags.number("scale", 1, 10000, &scale, "percent of the operations (default 100)");
    flags.parse(argc, argv);
    char real[4096];
    if (realpath(library.c_str(), real) == nullptr) {
        flags.fail("no library \"" + library + "\"");
    }
    library = real;
    const auto found =
        std::find_if(workloads().begin(), workloads().end(),
                     [&name](const Workload &workload) { return name == workload.name; });
    if (found == workloads().end()) {
        flags.fail("no workload \"" + name + "\"");
    }
    setup.cores = static_cast<unsigned>(cores);
    if (sockets == 2) {
        setup.costs.cores_of_socket = std::max(setup.cores / 2, 1u);
    }
    std::unique_ptr<Machine> run;
    const std::vector<Work> work = found->run(setup, scale, load, &run);
    double operations = 0;
    double per_second = 0;
    for (const Work &w : work) {
        operations += static_cast<double>(w.operations);
        per_second +=
            w.ps == 0 ? 0 : static_cast<double>(w.operations) * 1e12 / static_cast<double>(w.ps);
    }
    Counts own;
    for (const Kind kind : {kMalloc, kFree, kExit}) {
        own.add(run->counts(kind));
    }
    const Json result = Json::object({
        {"workload", name},
        {"title", found->title},
        {"cores", static_cast<double>(cores)},
        {"sockets", static_cast<double>(sockets)},
        {"seed", static_cast<double>(setup.seed)},
        {"operations", operations},
        {"operations_per_second", per_second},
        {"allocator", counts_json(own)},
        {"malloc", counts_json(run->counts(kMalloc))},
        {"free", counts_json(run->counts(kFree))},
        {"exit", counts_json(run->counts(kExit))},
        {"program", counts_json(run->counts(kProgram))},
        {"sites", sites_json(*run)},
        {"lines", lines_json(*run)},
    });
    std::printf("%s\n", result.text().c_str());
    std::fflush(stdout);
    // No destructor of the allocator's: its threads are gone.
    _exit(0);
}
