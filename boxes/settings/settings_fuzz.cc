// SPDX-License-Identifier: Apache-2.0
// Any environment: each setting gets the value that a second, slower reading of the rules gives,
// and each bad value and each name without a setting one line of warning.
#include "boxes/settings/settings.h"
#include "tools/build/fuzz.h"

#include <string.h>

#include <set>
#include <string>
#include <vector>

extern "C" int64_t settings_values[SETTING_COUNT];

static std::string warnings;
extern "C" void __wrap_os_write_stderr(const char *text, size_t size) {
    warnings.append(text, size);
}

namespace {

using Wide = __int128;

// As settings_parse().
bool Expected(const setting_row &row, std::string text, int64_t *out) {
    bool negative = !text.empty() && text[0] == '-';
    if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
        text.erase(0, 1);
    }
    size_t digits = text.find_first_not_of("0123456789");
    std::string suffix = digits == std::string::npos ? "" : text.substr(digits);
    std::string number = text.substr(0, digits);
    if (number.empty()) {
        return false;
    }
    number.erase(0, number.find_first_not_of('0'));
    if (number.size() > 19) { // INT64_MAX has 19
        return false;
    }
    Wide value = number.empty() ? 0 : static_cast<Wide>(std::stoull(number));
    if (!suffix.empty()) {
        size_t unit = std::string("KMGT%").find(suffix);
        if (strncmp(row.unit, "bytes", 5) != 0 || suffix.size() != 1 || unit == std::string::npos ||
            (suffix == "%" && (strstr(row.unit, "%") == nullptr || value > 100))) {
            return false;
        }
        value *= suffix == "%" ? Wide{settings_memory() / 100} : Wide{1} << (10 * (unit + 1));
    }
    value = negative ? -value : value;
    if (value < row.least || value > row.most) {
        return false;
    }
    *out = static_cast<int64_t>(value);
    return true;
}

// What HAKMEM_STATS takes besides numbers.
bool IsStats(const std::string &value) {
    bool file = value.find_first_of("/.") != std::string::npos && value.size() < 1024;
    return value == "text" || value == "json" || file;
}

// The line that a bad value gets: a long one is cut.
std::string Warning(const setting_row &row, const std::string &value) {
    return "hakmem: warning: " + std::string(row.name) + "=" + value.substr(0, 64) +
           ": not a number of the setting's range, default used\n";
}

} // namespace

// Entries of the environment, up to a NUL each. Where the first byte of one is a small number, it
// stands for the name of that setting, so that names need not be found by chance.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::vector<std::string> entries;
    for (size_t at = 0; at < size;) {
        const char *from = reinterpret_cast<const char *>(data) + at;
        std::string entry(from, strnlen(from, size - at));
        at += entry.size() + 1;
        size_t named = entry.empty() ? 0 : static_cast<uint8_t>(entry[0]);
        if (named >= 1 && named <= SETTING_COUNT) {
            entry.replace(0, 1, std::string(settings_table[named - 1].name) + "=");
        }
        entries.push_back(entry);
    }

    int64_t expected[SETTING_COUNT];
    for (int i = 0; i < SETTING_COUNT; i++) {
        expected[i] = settings_values[i] = settings_table[i].preset;
    }
    std::string expected_warnings;
    std::vector<char *> environment;
    std::set<std::string> unknown;
    for (std::string &entry : entries) {
        environment.push_back(entry.data());
        size_t end = entry.find('=');
        bool ours = entry.rfind("HAKMEM_", 0) == 0 && end != std::string::npos;
        for (const setting_text_row &row : settings_text_table) {
            ours = ours && entry.substr(0, end) != row.name;
        }
        for (int i = 0; i < SETTING_COUNT; i++) {
            const setting_row &row = settings_table[i];
            size_t equals = entry.find('=');
            if (equals == std::string::npos || entry.substr(0, equals) != row.name) {
                continue;
            }
            ours = false;
            std::string value = entry.substr(equals + 1);
            int64_t parsed = 17;
            int64_t wanted = 17;
            bool good = Expected(row, value, &wanted);
            FUZZ_CHECK(settings_parse(&row, value.c_str(), &parsed) == good);
            if (i == SETTING_STATS && !good && IsStats(value)) {
                expected[i] = 1;
                continue;
            }
            FUZZ_CHECK(parsed == wanted);
            if (good) {
                expected[i] = wanted;
            } else if (value.empty()) {
                expected[i] = row.preset;
            } else {
                expected_warnings += Warning(row, value);
            }
        }
        if (ours && unknown.insert(entry.substr(0, end)).second) {
            expected_warnings += "hakmem: warning: " + entry.substr(0, hak_min(end, 64)) + "=" +
                                 entry.substr(end + 1, 64) + ": no such setting\n";
        }
    }
    environment.push_back(nullptr);
    warnings.clear();
    settings_load(environment.data());
    FUZZ_CHECK(warnings == expected_warnings);
    for (int i = 0; i < SETTING_COUNT; i++) {
        FUZZ_CHECK(settings_get(static_cast<setting>(i)) == expected[i]);
        FUZZ_CHECK(expected[i] >= settings_table[i].least && expected[i] <= settings_table[i].most);
    }
    return 0;
}
