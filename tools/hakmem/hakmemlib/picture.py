# SPDX-License-Identifier: Apache-2.0
"""Pictures of a heap: what each page holds, and the files that show it.

A row is a SuperSlab, a cell of it a page. A cell of a slab of blocks is filled from below: live blocks in the colour of
their size, above them cached ones, and free ones pale."""

import base64
import colorsys
import json
import struct
import zlib
from html import escape

# What a page is. The codes from BIN on are of slabs of blocks: BIN + the number of their bin.
UNMAPPED, CLEAN, DIRTY, ASIDE, OWN, PRIVATE, LARGE, ROOM, UNTOUCHED, EMPTY, WAITING, MEDIUM, BIN = range(13)

NAMES = {
    UNMAPPED: "not mapped",
    CLEAN: "free, no memory",
    DIRTY: "free, with memory",
    ASIDE: "free, set aside for a thread",
    OWN: "the allocator's own",
    PRIVATE: "a private heap",
    LARGE: "large block",
    ROOM: "large block, room to grow",
    UNTOUCHED: "large block, never touched",
    EMPTY: "slab of blocks, page without memory",
    WAITING: "large block, freed, in quarantine",
    MEDIUM: "medium block",
}
COLOURS = {
    UNMAPPED: "#ffffff",
    CLEAN: "#ececec",
    DIRTY: "#c89b6c",
    ASIDE: "#e3c39e",
    OWN: "#303030",
    PRIVATE: "#8e4fb0",
    LARGE: "#4a6484",
    ROOM: "#b9c6d6",
    UNTOUCHED: "#d5dde7",
    EMPTY: "#f7f7f7",
    WAITING: "#7d8ca0",
    MEDIUM: "#5d88b3",
}
CACHED_COLOUR = "#8a8a8a"


def bin_colours(count):
    """(full, pale) of each bin: small blocks red, large ones violet."""
    found = [("#000000", "#000000")]
    for b in range(1, count):
        hue = 0.8 * (b - 1) / max(1, count - 2)
        found.append(tuple("#%02x%02x%02x" % tuple(round(255 * c) for c in colorsys.hls_to_rgb(hue, light, 0.75)) for light in (0.45, 0.88)))
    return found


class Row:
    """A SuperSlab: its address, (code, live, cached) of each page in 255ths, and a description of its slabs."""

    __slots__ = ("address", "pages", "slabs")


def _masks(b, page, slab_bytes):
    """For each page of a slab of bin `b` the blocks that lie on it, as bits."""
    found = []
    for start in range(0, slab_bytes, page):
        first, last = start // b.size, min(b.blocks - 1, (start + page - 1) // b.size)
        found.append(((1 << last + 1) - (1 << first)) if first <= last else 0)
    return found


def rows(heap):
    """The rows of a heap, by address."""
    per_slab = heap.slab_bytes // heap.page
    masks = {b.number: _masks(b, heap.page, heap.slab_bytes) for b in heap.bins[1:]}
    found = []
    run_until, run = 0, None  # a large run may go on from one SuperSlab to the next
    aside = {i for head, count in heap.aside.items() for i in range(head, head + count)}
    waiting = {i for slab in heap.waiting.values() for i in range(slab.index, slab.index + slab.run)}
    for superslab in sorted(heap.superslabs):
        row = Row()
        first = superslab * heap.superslab_slabs
        row.address = heap.address(first)
        pages = bytearray()
        row.slabs = []
        resident = heap.memory.resident(row.address, heap.superslab_slabs * per_slab)
        for index in range(first, first + heap.superslab_slabs):
            slab = heap.slabs.get(index)
            if slab is not None and slab.kind in ("large", "private", "chunk"):
                run_until, run = index + slab.run, slab
            at = (index - first) * per_slab
            held = resident[at : at + per_slab] if resident else bytes([1]) * per_slab
            if slab is not None and slab.kind == "tiny":
                pages += _tiny(heap, slab, masks[slab.bin.number])
                row.slabs.append([BIN + slab.bin.number, slab.bin.size, *heap.counts(slab)])
            elif index < run_until and run is not None and run.kind == "chunk":
                pages += _chunk(heap, run, index, held)
                row.slabs.append([MEDIUM, len(run.blocks), sum(asked for _, asked, _ in run.blocks), 0, 0])
            elif index < run_until and run is not None:
                code = PRIVATE if run.kind == "private" else ROOM if index >= run.index + run.run - run.room else LARGE
                for p in range(per_slab):
                    pages += bytes([UNTOUCHED if code == LARGE and not held[p] else code, 255, 0])
                row.slabs.append([code, run.size if run.kind == "large" else 0, index - run.index, run.run, 0])
            else:
                own = slab is not None and slab.kind == "heap"
                code = OWN if own else ASIDE if index in aside else WAITING if index in waiting else DIRTY if heap.is_dirty(index) and heap.is_avail(index) else CLEAN
                pages += bytes([code, 0, 0]) * per_slab
                row.slabs.append([code, 0, 0, 0, 0])
        row.pages = bytes(pages)
        found.append(row)
    return found


def _chunk(heap, chunk, index, held):
    """The pages of slab `index` of a chunk of medium blocks."""
    at = heap.address(index)
    codes = [DIRTY if has_memory else CLEAN for has_memory in held]
    for start, _, count in chunk.blocks:
        first = start // heap.page - at // heap.page
        for p in range(max(first, 0), min(first + count, len(codes))):
            codes[p] = MEDIUM if held[p] else UNTOUCHED
    return b"".join(bytes([code, 255, 0]) for code in codes)


def _tiny(heap, slab, masks):
    pages = bytearray()
    live = heap.live_bits(slab)
    for p, mask in enumerate(masks):
        blocks = bin(mask).count("1") or 1
        n, c = bin(live & mask).count("1"), bin(slab.cached & mask).count("1")
        if n == 0 and c == 0 and (slab.clean >> p & 1 or not mask):
            pages += bytes([EMPTY, 0, 0])
        else:
            pages += bytes([BIN + slab.bin.number, (255 * n + blocks - 1) // blocks, 255 * c // blocks])
    return bytes(pages)


def legend(heap, found):
    """(colour, words) of each kind of memory in the picture."""
    seen = {row.pages[i] for row in found for i in range(0, len(row.pages), 3)}
    colours = bin_colours(len(heap.bins))
    for code in sorted(seen):
        if code < BIN:
            yield COLOURS[code], NAMES[code]
    for code in sorted(seen):
        if code >= BIN:
            yield colours[code - BIN][0], f"{heap.bins[code - BIN].size} B"
    if any(row.pages[i + 2] for row in found for i in range(0, len(row.pages), 3)):
        yield CACHED_COLOUR, "cached"


# --- PNG, with zlib alone

# 3 by 5 dots a character, a row an octal digit.
_FONT = {
    " ": "00000", "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757",
    "7": "71111", "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647",
    "F": "74644", "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755",
    "N": "65555", "O": "25552", "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557",
    "V": "55552", "W": "55775", "X": "55255", "Y": "55222", "Z": "71247", ",": "00024", ".": "00002", "'": "22000",
    ":": "02020", "/": "11244", "(": "12221", ")": "42224", "-": "00700", "_": "00007",
}


class _Canvas:
    """Pixels as indexes of a palette."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.palette, self._index = [], {}
        self.lines = [bytearray(width) for _ in range(height)]
        self.colour("#ffffff")

    def colour(self, text):
        if text not in self._index:
            self._index[text] = len(self.palette)
            self.palette.append(bytes.fromhex(text[1:]))
        return self._index[text]

    def box(self, x, y, width, height, colour):
        for line in self.lines[y : y + height]:
            line[x : x + width] = bytes([colour]) * width

    def text(self, x, y, words, scale=2):
        ink = self.colour("#202020")
        for char in words.upper():
            for dy, bits in enumerate(_FONT.get(char, "00000")):
                for dx in range(3):
                    if int(bits, 8) >> 2 - dx & 1:
                        self.box(x + dx * scale, y + dy * scale, scale, scale, ink)
            x += 4 * scale

    def png(self):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        raw = b"".join(b"\0" + bytes(line) for line in self.lines)
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 3, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", b"".join(self.palette)) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


_CELL, _LEFT = 2, 4


def _places(words, columns, letters):
    """(line, column) of each entry of a legend: one longer than a column's letters has the next one, too."""
    line = column = 0
    for _, text in words:
        wide = min(columns, -(-len(text) // letters))
        if column + wide > columns:
            line, column = line + 1, 0
        yield line, column
        column += wide


def png(heap, found, title):
    tall = max(1, min(8, 6000 // max(1, len(found))))
    gap = 1 if tall > 2 else 0
    words = list(legend(heap, found))
    per_line = 5
    head = 20
    places = list(_places(words, per_line, 22))
    foot = 10 + 14 * (places[-1][0] + 1 if places else 0)
    per_row = len(found[0].pages) // 3 if found else 512
    canvas = _Canvas(per_row * _CELL + 2 * _LEFT, head + len(found) * (tall + gap) + foot)
    canvas.text(_LEFT, 4, title)
    colours = bin_colours(len(heap.bins))
    cached, edge = canvas.colour(CACHED_COLOUR), canvas.colour("#c0c0c0")
    columns = {}

    def column(code, live, held):
        if code < BIN:
            return bytes([canvas.colour(COLOURS[code])]) * tall
        full, pale = (canvas.colour(c) for c in colours[code - BIN])
        n = (live * tall + 254) // 255
        c = min(tall - n, (held * tall + 254) // 255)
        return bytes([pale]) * (tall - n - c) + bytes([cached]) * c + bytes([full]) * n

    for r, row in enumerate(found):
        y = head + r * (tall + gap)
        cells = []
        for i in range(0, len(row.pages), 3):
            key = row.pages[i : i + 3]
            if key not in columns:
                columns[key] = column(*key)
            cells.append(columns[key])
        for dy in range(tall):
            line = canvas.lines[y + dy]
            line[_LEFT : _LEFT + per_row * _CELL] = bytes(cell[dy] for cell in cells for _ in range(_CELL))
        if gap:
            canvas.box(_LEFT, y + tall, per_row * _CELL, 1, edge)
    y = head + len(found) * (tall + gap) + 6
    for (colour, text), (line, column) in zip(words, places):
        x = _LEFT + column * (per_row * _CELL // per_line)
        canvas.box(x, y + line * 14, 10, 10, canvas.colour(colour))
        canvas.text(x + 14, y + line * 14, text)
    return canvas.png()


# --- SVG

def svg(heap, found, title):
    tall, gap, left, head = 8, 2, 110, 24
    colours = bin_colours(len(heap.bins))
    words = list(legend(heap, found))
    per_row = len(found[0].pages) // 3 if found else 512
    width = left + per_row * _CELL + 8
    height = head + len(found) * (tall + gap) + 16 + 16 * ((len(words) + 4) // 5)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="#fff"/><text x="4" y="15" font-size="13">{escape(title)}</text>',
    ]

    def rect(x, y, w, h, colour):
        out.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{colour}"/>')

    for r, row in enumerate(found):
        y = head + r * (tall + gap)
        out.append(f'<text x="4" y="{y + 8}" font-family="monospace">{row.address:#x}</text>')
        at, pages = 0, [row.pages[i : i + 3] for i in range(0, len(row.pages), 3)]
        while at < len(pages):
            end = at
            while end < len(pages) and pages[end] == pages[at]:
                end += 1
            code, live, cached = pages[at]
            x, w = left + at * _CELL, (end - at) * _CELL
            if code < BIN:
                rect(x, y, w, tall, COLOURS[code])
            else:
                full, pale = colours[code - BIN]
                n = round(live / 255 * tall, 1)
                c = min(tall - n, round(cached / 255 * tall, 1))
                rect(x, y, w, tall, pale)
                if c:
                    rect(x, y + tall - n - c, w, c, CACHED_COLOUR)
                if n:
                    rect(x, y + tall - n, w, n, full)
            at = end
    y = head + len(found) * (tall + gap) + 8
    for i, (colour, text) in enumerate(words):
        x = 4 + i % 5 * (width // 5)
        rect(x, y + i // 5 * 16, 10, 10, colour)
        out.append(f'<text x="{x + 14}" y="{y + i // 5 * 16 + 9}">{escape(text)}</text>')
    return "\n".join(out + ["</svg>", ""]).encode()


# --- HTML

def frame(heap, found, caption):
    """A moment, as html() and the server's page want it."""
    return {
        "caption": caption,
        "rows": [{"a": f"{row.address:x}", "s": row.slabs, "p": base64.b64encode(row.pages).decode()} for row in found],
    }


def common(heap):
    return {
        "page": heap.page,
        "slab": heap.slab_bytes,
        "bins": [b.size for b in heap.bins],
        "binColours": bin_colours(len(heap.bins)),
        "colours": [COLOURS[i] for i in range(BIN)],
        "names": [NAMES[i] for i in range(BIN)],
        "cached": CACHED_COLOUR,
        "firstBin": BIN,
        "large": LARGE,
        "room": ROOM,
        "medium": MEDIUM,
    }


STYLE = """body{font:14px sans-serif;margin:12px;color:#222;background:#fff}h1{font-size:18px;margin:0 0 4px}
#caption{margin:4px 0;font-variant-numeric:tabular-nums}#tip{position:fixed;background:#222;color:#fff;padding:4px 8px;border-radius:3px;
font-size:12px;pointer-events:none;display:none;white-space:pre;z-index:2}#legend span{display:inline-block;margin:2px 10px 2px 0;font-size:12px}
#legend i{display:inline-block;width:11px;height:11px;margin-right:4px;vertical-align:-1px;border:1px solid #999}
#time{width:1024px;max-width:100%;display:block}"""

SCRIPT = r"""
function Map_(canvas, tip, legend, common) {
  const CELL = 2, TALL = 9, GAP = 2;
  let rows = [], pages = [];
  function bytes(text) { const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i); return out; }
  this.show = function (frame) {
    rows = frame.rows; pages = rows.map(r => bytes(r.p));
    const per = pages.length ? pages[0].length / 3 : 512;
    canvas.width = per * CELL; canvas.height = Math.max(1, rows.length * (TALL + GAP));
    const g = canvas.getContext('2d'), seen = new Set(); let cachedSeen = false;
    g.fillStyle = '#fff'; g.fillRect(0, 0, canvas.width, canvas.height);
    pages.forEach((p, r) => { const y = r * (TALL + GAP);
      for (let i = 0; i < per; i++) {
        const code = p[3 * i], live = p[3 * i + 1], held = p[3 * i + 2], x = i * CELL; seen.add(code);
        if (code < common.firstBin) { g.fillStyle = common.colours[code]; g.fillRect(x, y, CELL, TALL); continue; }
        const c = common.binColours[code - common.firstBin], n = live / 255 * TALL, k = Math.min(TALL - n, held / 255 * TALL);
        g.fillStyle = c[1]; g.fillRect(x, y, CELL, TALL);
        if (k) { g.fillStyle = common.cached; g.fillRect(x, y + TALL - n - k, CELL, k); cachedSeen = true; }
        g.fillStyle = c[0]; g.fillRect(x, y + TALL - n, CELL, n);
      } });
    legend.textContent = '';
    const add = (colour, text) => { const s = document.createElement('span'), b = document.createElement('i');
      b.style.background = colour; s.append(b, text); legend.append(s); };
    [...seen].sort((a, b) => a - b).forEach(code => code < common.firstBin ? add(common.colours[code], common.names[code])
      : add(common.binColours[code - common.firstBin][0], common.bins[code - common.firstBin] + ' B'));
    if (cachedSeen) add(common.cached, 'cached');
  };
  canvas.onmousemove = e => {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const r = Math.floor((e.clientY - box.top) * scale / (TALL + GAP)), i = Math.floor((e.clientX - box.left) * scale / CELL);
    if (r < 0 || r >= rows.length || i < 0 || 3 * i >= pages[r].length) { tip.style.display = 'none'; return; }
    const p = pages[r], code = p[3 * i], perSlab = common.slab / common.page, s = rows[r].s[Math.floor(i / perSlab)];
    const address = BigInt('0x' + rows[r].a) + BigInt(i * common.page);
    let text = '0x' + address.toString(16) + '\n';
    if (s[0] >= common.firstBin) {
      text += 'slab of ' + s[1] + '-byte blocks: ' + s[2] + ' live, ' + s[3] + ' cached, ' + s[4] + ' free\n';
      text += code < common.firstBin ? 'this page has no memory' : 'this page: ' + Math.round(p[3 * i + 1] / 2.55) + ' % live, ' + Math.round(p[3 * i + 2] / 2.55) + ' % cached';
    } else if (s[0] === common.large || s[0] === common.room)
      text += common.names[code] + ' of ' + s[1].toLocaleString() + ' bytes (slab ' + (s[2] + 1) + ' of ' + s[3] + ')';
    else if (s[0] === common.medium)
      text += common.names[code] + '; its chunk has ' + s[1] + ' blocks of ' + s[2].toLocaleString() + ' bytes in all';
    else text += common.names[code];
    tip.textContent = text; tip.style.display = 'block';
    tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px'; tip.style.top = (e.clientY + 14) + 'px';
  };
  canvas.onmouseleave = () => { tip.style.display = 'none'; };
}
"""


def html(heap, frames, title):
    """An HTML page that loads nothing else."""
    blob = base64.b64encode(zlib.compress(json.dumps({"common": common(heap), "frames": frames}).encode(), 9)).decode()
    slider = '<input id="time" type="range" min="0" value="0" step="1">' if len(frames) > 1 else ""
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>
<body><h1>{escape(title)}</h1><div id="caption"></div>{slider}<canvas id="map"></canvas><div id="legend"></div><div id="tip"></div>
<script>{SCRIPT}
const raw = Uint8Array.from(atob("{blob}"), c => c.charCodeAt(0));
new Response(new Blob([raw]).stream().pipeThrough(new DecompressionStream('deflate'))).json().then(data => {{
  const at = id => document.getElementById(id), map = new Map_(at('map'), at('tip'), at('legend'), data.common), time = at('time');
  const show = i => {{ map.show(data.frames[i]); at('caption').textContent = data.frames[i].caption; document.body.dataset.rows = data.frames[i].rows.length; }};
  if (time) {{ time.max = data.frames.length - 1; time.oninput = () => show(+time.value); }}
  show(0);
}});
</script></body></html>
""".encode()
