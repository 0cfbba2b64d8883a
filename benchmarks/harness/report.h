// SPDX-License-Identifier: Apache-2.0
// report: tables, JSON and what machine it was.
#ifndef HAKMEM_BENCHMARKS_HARNESS_REPORT_H
#define HAKMEM_BENCHMARKS_HARNESS_REPORT_H

#include "benchmarks/harness/sample.h"

#include <string>
#include <utility>
#include <vector>

namespace bench {

std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

// 12345678 -> "12 345 678"
std::string grouped(double value);

// A Markdown table, padded so that it reads as well on a terminal. The first column stands left,
// the others right; rows may be shorter than the heading.
class Table {
  public:
    explicit Table(std::vector<std::string> heading) : rows_{std::move(heading)} {}
    void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
    std::string text() const;

  private:
    std::vector<std::vector<std::string>> rows_;
};

// A JSON value, as its text.
class Json {
  public:
    Json(double number);
    Json(const char *text) : Json(std::string(text)) {}
    Json(const std::string &text);
    Json(const Sample &numbers);
    static Json object(const std::vector<std::pair<std::string, Json>> &members);
    static Json array(const std::vector<Json> &items);
    const std::string &text() const { return text_; }

  private:
    Json() = default;
    std::string text_;
};

// What a figure has to be read with: date, processor, memory, kernel and its settings, C library,
// load of the machine, and the commit if the source tree is at hand. Names and values.
std::vector<std::pair<std::string, std::string>> describe_machine();

Json machine_json();

// The same as a Markdown list.
std::string machine_text();

// True if all was written; else says why on stderr.
bool write_file(const std::string &path, const std::string &text);

// Writes DRIVER.md and DRIVER.json into the directory, and says so on stderr. True if all was
// written.
bool write_results(const std::string &driver, const std::string &directory,
                   const std::string &markdown, const Json &json);

} // namespace bench

#endif
