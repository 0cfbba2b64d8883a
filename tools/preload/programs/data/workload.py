"""Threads, json, regex, processes that fork and that are spawned, big buffers: see the program python3."""
import concurrent.futures, collections, hashlib, json, multiprocessing, pickle, re, subprocess, threading, zlib

def work(seed):
    x, rows = seed, []
    for i in range(3000):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        rows.append({"id": i, "key": "%016x" % x, "tags": ["t%d" % (x >> s & 15) for s in range(0, 40, 8)]})
    text = json.dumps(rows, indent=1)
    again = json.loads(text)
    assert again == rows
    found = re.findall(r'"key": "([0-9a-f]*?(?:00|ff)[0-9a-f]*)"', text)
    packed = zlib.compress(pickle.dumps(again), 6)
    return hashlib.sha256(packed).hexdigest(), len(found), text.count("t7")

results = {}
def thread(n):
    results[n] = work(n)
threads = [threading.Thread(target=thread, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
for n in sorted(results): print("thread", n, *results[n])

# Short threads one after another: heaps must be found again.
seen = []
for n in range(300):
    t = threading.Thread(target=lambda n=n: seen.append(sum(len(str(i)) for i in range(n))))
    t.start(); t.join()
print("short threads", sum(seen))

# Forked from a process whose other threads go on allocating.
stop = threading.Event()
def churn():
    while not stop.is_set():
        [bytearray(n) for n in range(1, 2000, 37)]
busy = [threading.Thread(target=churn) for _ in range(2)]
for t in busy: t.start()
with multiprocessing.get_context("fork").Pool(4) as pool:
    for n, r in enumerate(pool.map(work, range(100, 108))): print("fork", n, *r)
stop.set()
for t in busy: t.join()

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print("pool", hashlib.sha256(repr(list(pool.map(work, range(200, 204)))).encode()).hexdigest())

for n in range(20):
    out = subprocess.run(["/bin/echo", str(n) * n], capture_output=True, text=True, check=True).stdout
    print("subprocess", out.strip())

words = collections.Counter(w for n in range(200000) for w in (str(n % 997), str(n % 1009)))
print("words", sorted(words.items())[:5], len(words))
big = bytearray()
for n in range(2000): big += bytes([n % 251]) * 9973
print("buffer", len(big), hashlib.sha256(big).hexdigest())
