"""Prints a TCP port of 127.0.0.1 that is free now, and that no client's end of a connection gets meanwhile."""
import random
import socket

with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
    first = int(f.read().split()[0])  # of those that clients get
while True:
    with socket.socket() as s:
        port = random.randrange(10000, first) if first > 11000 else 0
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(s.getsockname()[1])
        break
