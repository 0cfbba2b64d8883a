# Objects, strings, dictionaries, JSON, regular expressions and threads; run with PYTHONMALLOC=malloc,
# so that every object is a block of malloc's.
import json
import re
import threading


class Node:
    def __init__(self, value):
        self.value = value
        self.left = self.right = None

    def insert(self, value):
        node = self
        while True:
            side = "left" if value < node.value else "right"
            child = getattr(node, side)
            if child is None:
                setattr(node, side, Node(value))
                return
            node = child


def work(seed, results):
    state = seed
    root = Node(1 << 31)
    words = []
    for i in range(20000):
        state = (state * 1103515245 + 12345) & 0xFFFFFFFF
        root.insert(state)
        words.append("word%d" % (state % 5000))
    counts = {}
    for word in words:
        counts.setdefault(word, []).append(len(counts))
    text = json.dumps([{"key": k, "places": v, "length": len(k)} for k, v in counts.items()])
    back = json.loads(text)
    found = re.findall(r"word\d*7\b", text)
    results.append((seed, len(back), len(found), len("".join(sorted(words)))))


results = []
threads = [threading.Thread(target=work, args=(seed, results)) for seed in range(1, 9)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(results))
