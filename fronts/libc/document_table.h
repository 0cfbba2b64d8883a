// SPDX-License-Identifier: Apache-2.0
// A table of a document, for tests that compare it with what they see.
#ifndef HAKMEM_FRONTS_LIBC_DOCUMENT_TABLE_H
#define HAKMEM_FRONTS_LIBC_DOCUMENT_TABLE_H

#include <fstream>
#include <string>
#include <vector>

namespace document_table {

using Row = std::vector<std::string>; // its cells

// The cells of a line of a table; none if it is no such line.
inline Row Cells(const std::string &line) {
    Row cells;
    size_t at = line.find('|');
    for (size_t end; at == 0 || !cells.empty(); at = end) {
        end = line.find('|', at + 1);
        if (end == std::string::npos) {
            break;
        }
        std::string cell = line.substr(at + 1, end - at - 1);
        size_t from = cell.find_first_not_of(' ');
        cells.push_back(from == std::string::npos
                            ? ""
                            : cell.substr(from, cell.find_last_not_of(' ') + 1 - from));
    }
    return cells;
}

// The rows below a heading of the second level: the names of the columns, the rule, and the rest.
inline std::vector<Row> Below(const std::string &heading, const std::string &file) {
    std::ifstream document(file);
    std::string line;
    while (std::getline(document, line) && line != "## " + heading) {
    }
    std::vector<Row> table;
    while (std::getline(document, line) && line.compare(0, 3, "## ") != 0) {
        if (Row cells = Cells(line); !cells.empty()) {
            table.push_back(cells);
        }
    }
    return table;
}

} // namespace document_table

#endif
