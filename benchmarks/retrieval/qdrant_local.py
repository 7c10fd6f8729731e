"""Qdrant's local mode against `StoredIndex`, on random passages: correctness of MaxSim and filters, and what each costs.

```
python benchmarks/retrieval/qdrant_local.py --passages 1000
```
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from qdrant_client import QdrantClient
from torch.nn.functional import normalize

from drdecr.retrieval import ExactIndex, StoredIndex
from drdecr.retrieval.qdrant.index import QdrantIndex

DIM, TOP, QUERIES = 128, 10, 10
WHERE = {"language": "fi", "third": [0, 1]}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passages", type=int, default=1000)
count = parser.parse_args().passages
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
lengths = torch.randint(20, 60, (count,), generator=generator).tolist()
passages = [normalize(torch.randn(length, DIM, generator=generator), dim=1) for length in lengths]
queries = [normalize(torch.randn(20, DIM, generator=generator), dim=1) for _ in range(QUERIES)]
ids = [f"p{number}" for number in range(count)]
payloads = [{"third": number % 3, "language": "en" if number % 10 else "fi"} for number in range(count)]
passing = [number for number in range(0, count, 10) if number % 3 < 2]
truths = [
    ExactIndex(ids, passages).search(queries, TOP),
    ExactIndex([ids[number] for number in passing], [passages[number] for number in passing]).search(queries, TOP),
]
print(
    "| engine | same ten best | the same, filtered | added, wall s (processor s) | a question, processor ms | filtered |"
)
print("|---|---:|---:|---:|---:|---:|", flush=True)
with tempfile.TemporaryDirectory() as folder:
    client = QdrantClient(path=str(Path(folder) / "qdrant"))
    engines = {
        "`StoredIndex`, float16": StoredIndex.create(Path(folder) / "index", DIM),
        '`QdrantIndex`, `":memory:"`': QdrantIndex.create(
            QdrantClient(":memory:"), "passages", DIM, num_candidates=None
        ),
        "`QdrantIndex`, a folder": QdrantIndex.create(client, "passages", DIM, num_candidates=None),
    }
    for name, index in engines.items():
        wall, cpu = time.perf_counter(), time.process_time()
        index.add(ids, passages, payloads)
        index.commit()
        cells = [f"{time.perf_counter() - wall:.1f} ({time.process_time() - cpu:.1f})"]
        shares = []
        for where, truth in zip((None, WHERE), truths, strict=True):
            start = time.process_time()
            hits = [index.search([query], TOP, where).document_ids[0] for query in queries]
            cells.append(f"{1000 * (time.process_time() - start) / QUERIES:.0f}")
            same = [len(set(best) & set(own)) / len(best) for best, own in zip(truth.document_ids, hits, strict=True)]
            shares.append(f"{sum(same) / QUERIES:.3f}")
        print(f"| {name} | {' | '.join([*shares, *cells])} |", flush=True)
    client.close()
