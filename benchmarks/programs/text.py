# JSON, dictionaries, sorting, regular expressions and text, in one thread, with Python's own allocator
# of small objects unless PYTHONMALLOC=malloc says otherwise.
import json
import random
import re

random.seed(7)
rows = [{"id": i, "name": f"name {i}", "tags": [str(random.random()) for _ in range(6)],
         "text": "x" * random.randrange(1, 900)} for i in range(3000)]
text = json.dumps(rows)
total = 0
for _ in range(40):
    back = json.loads(text)
    back.sort(key=lambda row: row["tags"][0])
    index = {row["name"]: row for row in back}
    total += len(json.dumps(back)) + len(re.findall(r"name \d+", text)) + len(index)
    lines = [line for row in back for line in (row["text"] + "\n" + row["name"]).split("\n")]
    total += len("".join(lines).encode())
print(total)
