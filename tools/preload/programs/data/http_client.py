"""Fetches PATHS from http://127.0.0.1:PORT with many keep-alive connections at once; prints what came back."""
import gzip
import hashlib
import http.client
import os
import sys
import threading
import time

port, requests, paths = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
THREADS = 8
RETRY = "RETRY" in os.environ
results = [None] * THREADS


def wait():
    for _ in range(1200):
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=60).request("GET", paths[0])
            return
        except OSError:
            time.sleep(0.05)
    sys.exit("no server")


def fetch(n):
    digest, statuses = hashlib.sha256(), {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for i in range(requests):
        headers = {"Accept-Encoding": "gzip"} if i % 2 else {}
        headers["X-Long"] = "h" * (i % 3000)
        for attempt in range(5):
            try:
                connection.request("GET", paths[(i + n) % len(paths)], headers=headers)
                response = connection.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # A server may end a connection between two requests; one that reloads does.
                connection.close()
                if attempt == 4 or not RETRY:
                    raise
        body = response.read()
        # How a server that streams cuts what it compresses depends on when the parts come.
        digest.update(gzip.decompress(body) if response.getheader("Content-Encoding") == "gzip" else body)
        statuses[response.status] = statuses.get(response.status, 0) + 1
        if i % 50 == 49:
            connection.close()
    results[n] = (digest.hexdigest(), sorted(statuses.items()))


wait()
threads = [threading.Thread(target=fetch, args=(n,)) for n in range(THREADS)]
for t in threads:
    t.start()
for t in threads:
    t.join()
for result in results:
    print(*result)
