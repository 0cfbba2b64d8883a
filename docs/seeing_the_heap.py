# SPDX-License-Identifier: Apache-2.0
"""A program with phases, for the picture in seeing_the_heap.md."""

import random
import time

random.seed(1)
records = [bytes(random.randrange(20, 400)) for _ in range(40000)]
pages = [bytearray(random.randrange(1000, 5000)) for _ in range(4000)]
tables = [bytearray(random.randrange(100000, 900000)) for _ in range(30)]
for i in range(0, len(pages), 2):
    pages[i] = None
for i in range(0, len(records), 3):
    records[i] = None
del tables[::3]
time.sleep(30)
