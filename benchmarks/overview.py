#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""overview.py RESULTS.md: README's chart, an SVG on stdout, out of a report that //benchmarks:compare wrote.

Two groups of bars, the geometric means of time and of peak RSS over the programs, one bar an allocator. A bar is the
ratio to the system's malloc, which is the line at 1.
"""
import html
import sys

# Where the geometric means of the report stand -> what the chart calls them.
GROUPS = {"Time": "time", "Peak RSS": "peak memory (RSS)"}
# Names of the report that say less than they should.
NAMES = {
    "mimalloc3": "mimalloc 3.4",
    "rpmalloc": "rpmalloc 2.0",
    "snmalloc": "snmalloc 0.7",
    "jemalloc-dev": "jemalloc 5.3",
    "tcmalloc": "tcmalloc (gperftools)",
    "mimalloc": "mimalloc 2.0",
}
OWN = "hakmem_c23"

LEFT, BAR, GAP, SCALE, WIDTH = 170, 16, 6, 300, 760


def geomeans(path):
    """{section: {allocator: ratio}} of the report's tables."""
    means, section, names = {}, None, []
    with open(path, encoding="utf-8") as report:
        for line in report:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if line.startswith("## "):
                section = line[3:].strip()
            elif cells[0] == "program":
                names = cells[2:]
            elif cells[0].startswith("geomean") and section in GROUPS:
                means[section] = {name: float(cell.split()[0]) for name, cell in zip(names, cells[2:])}
    missing = [group for group in GROUPS if group not in means]
    if missing:
        sys.exit(f"{path}: no geometric means of {', '.join(missing)}")
    return means


def text(x, y, content, **style):
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x}" y="{y}"{attributes}>{html.escape(content)}</text>'


def chart(means):
    rows, y = [], 34
    for section, title in GROUPS.items():
        top = y + 10
        rows.append(text(LEFT, y, f"{title}, geometric mean", font_weight="bold"))
        y = top
        for name, ratio in sorted(means[section].items(), key=lambda item: item[1]):
            colour = "#1f6f43" if name == OWN else "#9aa5b1"
            rows.append(text(LEFT - 8, y + 12, NAMES.get(name, name), text_anchor="end"))
            rows.append(
                f'<rect x="{LEFT}" y="{y}" width="{ratio * SCALE:.1f}" height="{BAR}" fill="{colour}"/>'
            )
            rows.append(text(f"{LEFT + ratio * SCALE + 6:.1f}", y + 12, f"{ratio:.2f}"))
            y += BAR + GAP
        one = LEFT + SCALE
        rows.append(f'<path d="M{one} {top - 4}V{y - 2}" stroke="#b03a2e" stroke-dasharray="4 3"/>')
        y += 26
    rows.append(text(LEFT, y - 8, "less is better; the dashed line is glibc's malloc", font_style="italic"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 4}" '
        f'viewBox="0 0 {WIDTH} {y + 4}" font-family="sans-serif" font-size="13">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y + 4}" fill="#ffffff"/>', *rows, "</svg>"]) + "\n"


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.stdout.write(chart(geomeans(sys.argv[1])))


if __name__ == "__main__":
    main()
