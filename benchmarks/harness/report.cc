// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <gnu/libc-version.h>
#include <sstream>
#include <sys/utsname.h>
#include <unistd.h>

namespace bench {
namespace {

std::string first_line(const std::string &path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// The value of the first line "NAME : VALUE" of a file.
std::string value_of(const std::string &path, const std::string &name) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const size_t colon = line.find(':');
        if (line.rfind(name, 0) == 0 && colon != std::string::npos) {
            const size_t begin = line.find_first_not_of(" \t", colon + 1);
            return begin == std::string::npos ? "" : line.substr(begin);
        }
    }
    return "?";
}

// Columns as a terminal counts them: UTF-8 continuation bytes take none.
size_t width_of(const std::string &text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

} // namespace

std::string format(const char *pattern, ...) {
    std::array<char, 1024> buffer;
    va_list arguments;
    va_start(arguments, pattern);
    std::vsnprintf(buffer.data(), buffer.size(), pattern, arguments);
    va_end(arguments);
    return buffer.data();
}

std::string grouped(double value) {
    std::string digits = format("%.0f", std::fabs(value));
    for (size_t at = digits.size(); at > 3;) {
        at -= 3;
        digits.insert(at, " ");
    }
    return (value <= -0.5 ? "-" : "") + digits;
}

std::string Table::text() const {
    std::vector<size_t> widths;
    for (const auto &row : rows_) {
        widths.resize(std::max(widths.size(), row.size()), 3);
        for (size_t i = 0; i < row.size(); i++) {
            widths[i] = std::max(widths[i], width_of(row[i]));
        }
    }
    std::string text;
    for (size_t r = 0; r < rows_.size(); r++) {
        text += "|";
        for (size_t i = 0; i < widths.size(); i++) {
            const std::string cell = i < rows_[r].size() ? rows_[r][i] : "";
            const std::string padding(widths[i] - width_of(cell), ' ');
            text += " " + (i == 0 ? cell + padding : padding + cell) + " |";
        }
        text += "\n";
        if (r == 0) {
            text += "|";
            for (size_t i = 0; i < widths.size(); i++) {
                text += " " + std::string(widths[i] - 1, '-') + (i == 0 ? "-" : ":") + " |";
            }
            text += "\n";
        }
    }
    return text;
}

// JSON has no word for what is not a number.
Json::Json(double number) : text_(std::isfinite(number) ? format("%.10g", number) : "null") {}

Json::Json(const std::string &text) {
    text_ = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            text_ += '\\';
            text_ += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            text_ += format("\\u%04x", static_cast<unsigned>(c));
        } else {
            text_ += c;
        }
    }
    text_ += '"';
}

Json::Json(const Sample &numbers) {
    *this = array(std::vector<Json>(numbers.begin(), numbers.end()));
}

Json Json::object(const std::vector<std::pair<std::string, Json>> &members) {
    Json json;
    for (const auto &[name, value] : members) {
        json.text_ += (json.text_.empty() ? "" : ", ") + Json(name).text_ + ": " + value.text_;
    }
    json.text_ = "{" + json.text_ + "}";
    return json;
}

Json Json::array(const std::vector<Json> &items) {
    Json json;
    for (const Json &item : items) {
        json.text_ += (json.text_.empty() ? "" : ", ") + item.text_;
    }
    json.text_ = "[" + json.text_ + "]";
    return json;
}

std::vector<std::pair<std::string, std::string>> describe_machine() {
    std::array<char, 64> date;
    const time_t now = std::time(nullptr);
    struct tm utc;
    std::strftime(date.data(), date.size(), "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &utc));
    struct utsname kernel;
    uname(&kernel);
    const double pages = static_cast<double>(sysconf(_SC_PHYS_PAGES));
    const std::string thp = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
    std::vector<std::pair<std::string, std::string>> facts = {
        {"date", date.data()},
        {"processor", format("%ld x %s", sysconf(_SC_NPROCESSORS_ONLN),
                             value_of("/proc/cpuinfo", "model name").c_str())},
        {"memory", format("%.1f GiB", pages * static_cast<double>(sysconf(_SC_PAGESIZE)) / 0x1p30)},
        {"kernel", std::string(kernel.sysname) + " " + kernel.release},
        {"transparent huge pages", thp.empty() ? "?" : thp},
        {"vm.overcommit_memory", first_line("/proc/sys/vm/overcommit_memory")},
        {"C library", std::string("glibc ") + gnu_get_libc_version()},
        {"compiler", "gcc " __VERSION__},
        {"load average at the end", first_line("/proc/loadavg")},
    };
    // `bazel run` says where the source tree is.
    const char *tree = std::getenv("BUILD_WORKSPACE_DIRECTORY");
    if (tree != nullptr && std::string(tree).find('\'') == std::string::npos) {
        const std::string command =
            std::string("git -C '") + tree + "' describe --always --dirty 2>/dev/null";
        if (FILE *pipe = popen(command.c_str(), "r")) {
            std::array<char, 128> line = {};
            if (std::fgets(line.data(), line.size(), pipe) != nullptr) {
                std::string commit = line.data();
                facts.emplace_back("commit", commit.substr(0, commit.find('\n')));
            }
            pclose(pipe);
        }
    }
    return facts;
}

Json machine_json() {
    std::vector<std::pair<std::string, Json>> members;
    for (const auto &[name, value] : describe_machine()) {
        members.emplace_back(name, value);
    }
    return Json::object(members);
}

std::string machine_text() {
    std::string text;
    for (const auto &[name, value] : describe_machine()) {
        text += "- " + name + ": " + value + "\n";
    }
    return text;
}

bool write_file(const std::string &path, const std::string &text) {
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (!file) {
        std::fprintf(stderr, "cannot write %s\n", path.c_str());
        return false;
    }
    return true;
}

bool write_results(const std::string &driver, const std::string &directory,
                   const std::string &markdown, const Json &json) {
    const std::string path = directory + "/" + driver;
    if (!write_file(path + ".md", markdown) || !write_file(path + ".json", json.text() + "\n")) {
        return false;
    }
    std::fprintf(stderr, "%s: wrote %s.{json,md} and charts\n", driver.c_str(), path.c_str());
    return true;
}

} // namespace bench
