# SPDX-License-Identifier: Apache-2.0
"""hakmem serve: a page of this machine with live charts of a process's heap."""

import html
import http.server
import json
import secrets
import threading
import time

from . import Failure, cmd_map, cmd_stat, picture
from .heap import Heap
from .memory import Process, Unreadable

HELP = "show a process's heap live, on a web page that only this machine can open"

_KEPT = 3600  # looks that are kept


def add_arguments(parser):
    parser.add_argument("pid", metavar="PID", type=int)
    parser.add_argument("--port", metavar="N", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    parser.add_argument("--every", metavar="SECONDS", type=float, default=1.0, help="between two looks (default 1)")


class Watcher:
    """Looks at a process again and again, and keeps the numbers."""

    NAMES = ("rss", "live", "tiny_cached", "tiny_free", "dirty")

    def __init__(self, process, every):
        self.process, self.every = process, every
        self.lock = threading.Lock()
        self.begun = time.monotonic()
        self.history, self.latest, self.ended = [], None, None
        self.look()

    def look(self):
        found = cmd_stat.gather(self.process)
        with self.lock:
            self.latest = found
            self.history.append([round(time.monotonic() - self.begun, 2)] + [found[name] for name in self.NAMES])
            del self.history[:-_KEPT]

    def run(self):
        while True:
            time.sleep(self.every)
            try:
                self.look()
            except Unreadable:
                continue
            except Failure as failure:
                self.ended = str(failure)
                return

    def stats(self, since):
        with self.lock:
            return {"history": [row for row in self.history if row[0] > since], "latest": self.latest, "ended": self.ended}

    def map(self):
        heap = Heap(self.process)
        return {"common": picture.common(heap), "frame": picture.frame(heap, picture.rows(heap), cmd_map.caption_of(heap))}


def handler(watcher, title, path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            # A page of another site may make a browser ask here, by a name that leads to this machine. So only requests
            # with the path are answered, and only under this machine's own names.
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            where, _, query = self.path.partition("?")
            if host not in ("127.0.0.1", "localhost") or not where.startswith(path):
                return self.answer(404, "text/plain", b"not here\n")
            try:
                if where == path:
                    return self.answer(200, "text/html; charset=utf-8", page(title).encode())
                if where == path + "stats":
                    since = float(query[6:]) if query.startswith("since=") else -1.0
                    return self.answer(200, "application/json", json.dumps(watcher.stats(since)).encode())
                if where == path + "map":
                    return self.answer(200, "application/json", json.dumps(watcher.map()).encode())
                if where == path + "metrics":
                    return self.answer(200, "text/plain; version=0.0.4", cmd_stat.prometheus(watcher.latest).encode())
            except (Failure, Unreadable, ValueError) as error:
                return self.answer(503, "text/plain", f"{error}\n".encode())
            return self.answer(404, "text/plain", b"not here\n")

        def answer(self, status, kind, body):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


def run(args):
    if args.every <= 0:
        raise Failure("--every: a time above 0 is wanted", 2)
    process = Process(args.pid)
    watcher = Watcher(process, args.every)
    title = f"{process.name} (pid {process.pid}), {watcher.latest['flavour']} {watcher.latest['version']}"
    path = f"/{secrets.token_urlsafe(9)}/"
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), handler(watcher, title, path))
    except OSError as error:
        raise Failure(f"port {args.port}: {error.strerror}") from None
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}{path}", flush=True)
    threading.Thread(target=watcher.run, daemon=True).start()
    server.serve_forever()
    return 0


def page(title):
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{picture.STYLE}
h2{{font-size:15px;margin:14px 0 4px}}#chart,#bins{{border:1px solid #ddd;display:block}}.key span{{margin-right:12px;font-size:12px}}.key i{{display:inline-block;width:11px;height:11px;margin-right:4px}}</style></head>
<body><h1>{html.escape(title)}</h1><div id="caption"></div>
<h2>Memory over time</h2><canvas id="chart" width="1024" height="240"></canvas><div class="key" id="key"></div>
<h2>By block size: live, cached, free</h2><canvas id="bins" width="1024" height="180"></canvas>
<h2>Map <button id="again">look again</button></h2><div id="mapcaption"></div><canvas id="map"></canvas><div id="legend"></div><div id="tip"></div>
<script>{picture.SCRIPT}{_SCRIPT}</script></body></html>
"""


_SCRIPT = r"""
const at = id => document.getElementById(id), MiB = n => (n / 1048576).toFixed(1) + ' MiB';
const SERIES = [['RSS', '#303030'], ['live', '#1f77b4'], ['cached', '#8a8a8a'], ['free blocks', '#7fb2dd'], ['free dirty slabs', '#c89b6c']];
SERIES.forEach(([name, colour]) => { const s = document.createElement('span'), i = document.createElement('i');
  i.style.background = colour; s.append(i, name); at('key').append(s); });
let history_ = [], latest = null;
function nice(n) { let step = 1048576; while (step * 5 < n) step *= 2; return step; }
function draw() {
  const c = at('chart'), g = c.getContext('2d'), W = c.width - 70, H = c.height - 20;
  g.clearRect(0, 0, c.width, c.height); g.font = '11px sans-serif';
  if (!history_.length) return;
  const t0 = history_[0][0], t1 = Math.max(t0 + 10, history_[history_.length - 1][0]);
  const most = Math.max(1048576, ...history_.map(r => Math.max(...r.slice(1)))) * 1.05, step = nice(most);
  const x = t => 60 + (t - t0) / (t1 - t0) * W, y = v => 8 + H - v / most * H;
  g.strokeStyle = '#eee'; g.fillStyle = '#555';
  for (let v = 0; v <= most; v += step) { g.beginPath(); g.moveTo(60, y(v)); g.lineTo(60 + W, y(v)); g.stroke(); g.fillText(MiB(v), 2, y(v) + 4); }
  g.fillText(Math.round(t1 - t0) + ' s', 60 + W - 30, c.height - 1);
  SERIES.forEach(([name, colour], i) => { g.strokeStyle = colour; g.lineWidth = 1.6; g.beginPath();
    history_.forEach((r, k) => k ? g.lineTo(x(r[0]), y(r[i + 1])) : g.moveTo(x(r[0]), y(r[i + 1]))); g.stroke(); });
}
function drawBins() {
  const c = at('bins'), g = c.getContext('2d'), bins = latest.bins.filter(b => b.slabs), H = c.height - 56;
  g.clearRect(0, 0, c.width, c.height); g.font = '10px sans-serif';
  const bytes = b => (b.live + b.cached + b.free) * b.size, most = Math.max(1, ...bins.map(bytes)), w = Math.min(60, (c.width - 30) / Math.max(1, bins.length));
  g.fillStyle = '#555'; g.fillText('highest: ' + MiB(most), 6, 10);
  bins.forEach((b, i) => { let y = c.height - 42;
    [['live', '#1f77b4'], ['cached', '#8a8a8a'], ['free', '#cfe2f3']].forEach(([name, colour]) => {
      const h = b[name] * b.size / most * H; g.fillStyle = colour; g.fillRect(6 + i * w, y - h, w - 2, h); y -= h; });
    g.save(); g.translate(6 + i * w + w / 2 - 4, c.height - 40); g.rotate(w < 30 ? Math.PI / 4 : 0); g.fillStyle = '#333'; g.fillText(b.size, w < 30 ? 2 : -8, 8); g.restore(); });
}
async function look() {
  try {
    const since = history_.length ? history_[history_.length - 1][0] : -1;
    const got = await (await fetch('stats?since=' + since)).json();
    history_ = history_.concat(got.history).slice(-3600); latest = got.latest;
    at('caption').textContent = got.ended || `RSS ${MiB(latest.rss)} (peak ${MiB(latest.peak_rss)}), live ${MiB(latest.live)}, cached ${MiB(latest.tiny_cached)}, free blocks ${MiB(latest.tiny_free)}, free dirty slabs ${MiB(latest.dirty)}, ${latest.threads} threads`;
    draw(); drawBins(); document.body.dataset.looks = history_.length;
    if (got.ended) return;
  } catch (error) { at('caption').textContent = 'hakmem serve has ended'; return; }
  setTimeout(look, 1000);
}
let map = null;
async function drawMap() {
  const answer = await fetch('map'); if (!answer.ok) { at('mapcaption').textContent = await answer.text(); return; }
  const got = await answer.json(); map = map || new Map_(at('map'), at('tip'), at('legend'), got.common);
  map.show(got.frame); at('mapcaption').textContent = got.frame.caption; document.body.dataset.rows = got.frame.rows.length;
}
at('again').onclick = drawMap; look(); drawMap(); setInterval(drawMap, 10000);
"""
