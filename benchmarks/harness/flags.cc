// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/flags.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <getopt.h>

namespace bench {

bool parse_number(const std::string &text, uint64_t least, uint64_t most, uint64_t *out) {
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) {
        return false;
    }
    errno = 0;
    const unsigned long long value = std::strtoull(text.c_str(), nullptr, 10);
    if (errno != 0 || value < least || value > most) {
        return false;
    }
    *out = value;
    return true;
}

std::vector<std::string> split_list(const std::string &text) {
    std::vector<std::string> parts;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find(',', begin), text.size());
        if (end > begin) {
            parts.push_back(text.substr(begin, end - begin));
        }
        begin = end + 1;
    }
    return parts;
}

Flags::Flags(std::string program, std::string about, std::vector<std::string> positional)
    : program_(std::move(program)), about_(std::move(about)), positional_(std::move(positional)) {}

void Flags::number(const char *name, uint64_t least, uint64_t most, uint64_t *value,
                   const char *what) {
    std::string text = what;
    if (*value != 0) {
        text += " (default " + std::to_string(*value) + ")";
    }
    flags_.push_back({name, "N", std::move(text), least, most, value, nullptr, nullptr});
}

void Flags::text(const char *name, const char *placeholder, std::string *value, const char *what) {
    std::string text = what;
    if (!value->empty()) {
        text += " (default " + *value + ")";
    }
    flags_.push_back({name, placeholder, std::move(text), 0, 0, nullptr, value, nullptr});
}

void Flags::toggle(const char *name, bool *value, const char *what) {
    flags_.push_back({name, "", what, 0, 0, nullptr, nullptr, value});
}

void Flags::allocators(std::string *value) {
    text("allocators", "LIST", value,
         "of system, a flavour, rivals, mimalloc ..., /path/lib.so; +NAME=VALUE after one sets a "
         "variable");
}

std::string Flags::usage() const {
    std::string line = "usage: " + program_;
    for (const std::string &name : positional_) {
        line += " " + name;
    }
    for (const Flag &flag : flags_) {
        line += std::string(" [--") + flag.name;
        line += flag.placeholder.empty() ? "]" : " " + flag.placeholder + "]";
    }
    return line + "\n";
}

void Flags::fail(const std::string &why) const {
    std::fprintf(stderr, "%s: %s\n%s", program_.c_str(), why.c_str(), usage().c_str());
    std::exit(2);
}

std::string Flags::make_directory(const std::string &path) const {
    // `bazel run` starts programs elsewhere, and says here where the person is.
    const char *base = std::getenv("BUILD_WORKING_DIRECTORY");
    const std::string directory =
        std::filesystem::absolute(std::filesystem::path(base == nullptr ? "" : base) / path);
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error) {
        fail(directory + ": " + error.message());
    }
    return directory;
}

std::vector<std::string> Flags::parse(int argc, char **argv) {
    constexpr int kHelp = 1;
    constexpr int kFirst = 256;
    std::vector<option> longs = {{"help", no_argument, nullptr, kHelp}};
    for (size_t i = 0; i < flags_.size(); i++) {
        longs.push_back({flags_[i].name,
                         flags_[i].placeholder.empty() ? no_argument : required_argument, nullptr,
                         kFirst + static_cast<int>(i)});
    }
    longs.push_back({nullptr, 0, nullptr, 0});
    opterr = 0;
    optind = 0; // starts over, so that a process can parse more than one command line
    for (int c; (c = getopt_long(argc, argv, ":", longs.data(), nullptr)) != -1;) {
        if (c == kHelp) {
            std::printf("%s\n%s\n", about_.c_str(), usage().c_str());
            for (const Flag &flag : flags_) {
                const std::string name = std::string(flag.name) + " " + flag.placeholder;
                std::printf("  --%-20s %s\n", name.c_str(), flag.what.c_str());
            }
            std::exit(0);
        }
        if (c == ':') {
            fail(std::string(argv[optind - 1]) + " needs a value");
        }
        if (c < kFirst) {
            fail(std::string("unknown flag ") + argv[optind - 1]);
        }
        const Flag &flag = flags_[static_cast<size_t>(c - kFirst)];
        if (flag.toggle != nullptr) {
            *flag.toggle = true;
        } else if (flag.text != nullptr) {
            *flag.text = optarg;
        } else if (!parse_number(optarg, flag.least, flag.most, flag.number)) {
            fail(std::string("--") + flag.name + " is a number from " + std::to_string(flag.least) +
                 " to " + std::to_string(flag.most) + ", not \"" + optarg + "\"");
        }
    }
    std::vector<std::string> rest(argv + optind, argv + argc);
    if (rest.size() != positional_.size()) {
        fail(rest.size() < positional_.size() ? "missing " + positional_[rest.size()]
                                              : "unexpected \"" + rest[positional_.size()] + "\"");
    }
    return rest;
}

} // namespace bench
