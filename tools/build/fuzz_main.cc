// SPDX-License-Identifier: Apache-2.0
// main() of a fuzz target in an ordinary test: the inputs kept in the tree, then random ones.
//
//   NAME_fuzz_test CORPUS RUNS    FUZZ_SEED=n uses another seed
//
// The random inputs are bytes of no meaning, and inputs of the corpus with a few bytes changed or a
// part of another one put in. What is under way is said when the program is stopped.
#include "tools/build/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

using Bytes = std::vector<uint8_t>;

char under_way[512];

void OnFault(int number) {
    dprintf(STDERR_FILENO, "fuzz: stopped in %s\n", under_way);
    signal(number, SIG_DFL);
    raise(number);
}

void Run(const Bytes &input) {
    // A copy of just its size: a target that reads behind it is seen by AddressSanitizer.
    LLVMFuzzerTestOneInput(Bytes(input).data(), input.size());
}

// The files of a folder by name, so that every run has the same order.
std::vector<std::pair<std::string, Bytes>> ReadFolder(const char *folder) {
    std::vector<std::pair<std::string, Bytes>> inputs;
    DIR *directory = opendir(folder);
    if (directory == nullptr) {
        fprintf(stderr, "fuzz: %s: %s\n", folder, strerror(errno));
        exit(1);
    }
    while (dirent *entry = readdir(directory)) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        std::string path = std::string(folder) + "/" + entry->d_name;
        int file = open(path.c_str(), O_RDONLY);
        Bytes bytes(1 << 16);
        ssize_t length = read(file, bytes.data(), bytes.size());
        close(file);
        if (length < 0) {
            fprintf(stderr, "fuzz: %s: %s\n", path.c_str(), strerror(errno));
            exit(1);
        }
        bytes.resize(static_cast<size_t>(length));
        inputs.emplace_back(path, bytes);
    }
    closedir(directory);
    std::sort(inputs.begin(), inputs.end());
    return inputs;
}

Bytes RandomBytes(std::mt19937_64 &random) {
    Bytes bytes(random() % (size_t{1} << random() % 10));
    for (uint8_t &byte : bytes) {
        byte = static_cast<uint8_t>(random());
    }
    return bytes;
}

Bytes Changed(Bytes bytes, const Bytes &other, std::mt19937_64 &random) {
    for (uint64_t i = random() % 8; i > 0 && !bytes.empty(); i--) {
        bytes[random() % bytes.size()] = static_cast<uint8_t>(random() >> random() % 8);
    }
    if (random() % 2 == 0) {
        size_t from = random() % (other.size() + 1);
        size_t to = from + random() % (other.size() + 1 - from);
        auto place = bytes.begin() + static_cast<ptrdiff_t>(random() % (bytes.size() + 1));
        bytes.insert(place, other.begin() + static_cast<ptrdiff_t>(from),
                     other.begin() + static_cast<ptrdiff_t>(to));
    }
    return bytes;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s CORPUS RUNS\n", argv[0]);
        return 2;
    }
    signal(SIGABRT, OnFault);
    signal(SIGSEGV, OnFault);
    auto corpus = ReadFolder(argv[1]);
    for (const auto &[path, bytes] : corpus) {
        snprintf(under_way, sizeof under_way, "%s", path.c_str());
        Run(bytes);
    }
    const char *text = getenv("FUZZ_SEED");
    uint64_t seed = text == nullptr ? 1 : strtoull(text, nullptr, 0);
    uint64_t runs = strtoull(argv[2], nullptr, 0);
    printf("fuzz: %zu inputs of the corpus, then %" PRIu64 " of seed %" PRIu64 "\n", corpus.size(),
           runs, seed);
    fflush(stdout);
    std::mt19937_64 random(seed);
    for (uint64_t i = 0; i < runs; i++) {
        bool fresh = corpus.empty() || random() % 4 == 0;
        Bytes input = fresh ? RandomBytes(random)
                            : Changed(corpus[random() % corpus.size()].second,
                                      corpus[random() % corpus.size()].second, random);
        snprintf(under_way, sizeof under_way, "random input %" PRIu64 " of seed %" PRIu64, i, seed);
        Run(input);
    }
    return 0;
}
