# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables for people."""

import sys


def mib(count):
    return f"{count / (1 << 20):.1f}"


def size(count):
    """Bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def span(seconds):
    """A time that has passed, in the two units that say the most."""
    seconds = int(max(0, seconds))
    for unit, of, below, per in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= of:
            return f"{seconds // of} {unit} {seconds % of // per} {below}"
    return f"{seconds} s"


def table(rows, heads, left=()):
    """Lines of a table; columns are right-aligned but for those in `left`."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [heads] + rows) for i in range(len(heads))]
    for row in [heads] + rows:
        yield "  ".join(cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()


def warn(text):
    print(f"hakmem: {text}", file=sys.stderr)
