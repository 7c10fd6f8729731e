"""Throughput and tail latency of `drdecr serve` under load, batched and not, in turn.

```
python benchmarks/serving [--concurrency 1 4 16 64] [--requests 128] [--rounds 3] [--max-waiting 256]
```

Two servers over the sample data's passages, with multilingual-e5-small, each a process of its own; one is asked at a time.
Needs the extras `demo` and `serve`, and httpx.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from load import Load, ask

sys.path.append(str(Path(__file__).parents[1] / "speed"))  # for sample_model

WAYS = {"batched": (32, 0.005), "unbatched": (1, 0.0)}
"""Requests answered together at most, and seconds that the first waits for company: the defaults, and none."""


def serve(arguments: argparse.Namespace) -> None:
    """Be one of the servers."""
    import torch
    from sample_model import load_sample_model

    from drdecr.retrieval import StoredIndex
    from drdecr.retrieval.retriever import DirectRetriever
    from drdecr.serve.app import ServerSettings, make_server

    torch.set_num_threads(arguments.threads)
    max_batch, wait = WAYS[arguments.way]
    settings = ServerSettings(max_batch=max_batch, wait=wait, max_waiting=arguments.max_waiting)
    system = DirectRetriever(load_sample_model(), StoredIndex.open(arguments.index))
    make_server(system, settings, "127.0.0.1", arguments.port).run()


def make_index(folder: Path) -> list[str]:
    """Encode the sample's test passages and return its questions."""
    from sample_model import load_sample_model

    from drdecr.data.offline.sample import read_sample_questions
    from drdecr.retrieval import StoredIndex

    found = read_sample_questions("test")
    model, names = load_sample_model(), list(found.passages)
    with StoredIndex.create(folder, model.config.embedding_dim) as index:
        payloads = [{"document_id": name, "text": found.passages[name]} for name in names]
        index.add(names, model.encode_documents(list(found.passages.values()), show_progress_bar=True), payloads)
        index.commit()
        print(f"{len(index)} passages, {index.manifest.segments[0].tokens} tokens of {model.config.embedding_dim}")
    return found.questions["query"][:]


def start(way: str, index: Path, arguments: argparse.Namespace) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server and return it with its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--way", way, "--index", index, "--port", port]
    words += ["--threads", arguments.threads, "--max-waiting", arguments.max_waiting]
    server = subprocess.Popen([sys.executable, __file__, *map(str, words)], stderr=subprocess.DEVNULL)
    return server, f"http://127.0.0.1:{port}"


def wait_for(server: subprocess.Popen[bytes], address: str) -> None:
    """Wait until a server answers."""
    while server.poll() is None:
        try:
            httpx.get(f"{address}/health", timeout=60)
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"The server ended with {server.returncode} before it answered.")


def measure(arguments: argparse.Namespace) -> None:
    """Print the table of docs/retrieval.md."""
    servers: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        questions = make_index(index)
        try:
            for way in WAYS:
                servers[way] = start(way, index, arguments)
            loads = {(level, way): Load() for level in arguments.concurrency for way in WAYS}
            for server, address in servers.values():
                wait_for(server, address)
                asyncio.run(ask(address, questions, 4, 8))  # warm
            for _ in range(arguments.rounds):
                for (level, way), load in loads.items():
                    load.add(asyncio.run(ask(servers[way][1], questions, level, max(arguments.requests, level))))
        finally:
            for server, _ in servers.values():
                server.terminate()
            for server, _ in servers.values():
                server.wait(60)
    show(loads, arguments.concurrency)


def show(loads: dict[tuple[int, str], Load], levels: list[int]) -> None:
    """Print a row a level and way."""
    print("| at the same time | | requests/s | p50 ms | p95 | p99 | requests a batch, mean (most) | refused |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for level in levels:
        for way in WAYS:
            load = loads[level, way]
            times = " | ".join(f"{1e3 * load.percentile(percent):.0f}" for percent in (50, 95, 99))
            batch = f"{load.mean_batch:.1f} ({max(load.batches)})"
            print(f"| {level} | {way} | {load.rate:.1f} | {times} | {batch} | {load.refused} |")
        one, other = (loads[level, way] for way in WAYS)
        ratios = [f"p{percent} {other.percentile(percent) / one.percentile(percent):.2f}" for percent in (50, 95, 99)]
        print(
            f"{level}: batched answers {one.rate / other.rate:.2f} times as many; times shorter: {', '.join(ratios)}",
            file=sys.stderr,
        )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16, 64])
parser.add_argument("--requests", type=int, default=128, help="a round, level and way (default 128)")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=1, help="of torch, in each server (default 1)")
parser.add_argument("--max-waiting", type=int, default=256)
for name in ("--way", "--index", "--port"):
    parser.add_argument(name, help=argparse.SUPPRESS, type=int if name == "--port" else str)
chosen = parser.parse_args()
(serve if chosen.way else measure)(chosen)
