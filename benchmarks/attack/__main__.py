"""Odd and costly requests to `drdecr serve`: what it answers, how slow the slowest answer is, and what memory it takes.

```
python benchmarks/attack [--requests 2000] [--seed 0]
```

The server is a process of this machine over 400 short documents and a model of random weights. Every kind of request is sent
`--requests` times (the slow ones fewer). The program ends with status 1 if an answer was a 5xx other than 503, held a path or a
stack, or took more than two seconds, or if the log holds a traceback. Needs the extra `serve`.
"""

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
Request = Callable[[random.Random], bytes]


def serve(folder: Path, port: int) -> None:
    """Be the server."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    from drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor
    from drdecr.retrieval import StoredIndex
    from drdecr.retrieval.retriever import DirectRetriever
    from drdecr.serve.app import ServerSettings, make_server

    torch.manual_seed(0)
    words = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{number}" for number in range(200))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<s>", 2), ("</s>", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    encoder = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    model = DrDecrModel(DrDecrConfig(encoder_config=encoder, embedding_dim=16)).eval()
    model.processor = DrDecrProcessor(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special), query_length=16, document_length=32
    )
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(200)}" for _ in range(20)) for _ in range(400)]
    with StoredIndex.create(folder / "index", 16) as index:
        names = [f"d{number}" for number in range(len(texts))]
        payloads = [{"text": text, "even": number % 2 == 0} for number, text in enumerate(texts)]
        index.add(names, model.encode_documents(texts), payloads)
        index.commit()
    retriever = DirectRetriever(model, StoredIndex.open(folder / "index"))
    make_server(retriever, ServerSettings(), HOST, port).run()


def post(body: bytes, *headers: str, path: str = "/search", length: bool = True) -> bytes:
    """Return the bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", "Connection: close", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def odd_value(chance: random.Random, depth: int = 0) -> str:
    """Return JSON text of a value that nobody expects, sometimes no JSON at all."""
    plain = [
        "null",
        "true",
        "-1",
        "1e999",
        "NaN",
        '""',
        '"\\ud800"',
        '"\\u0000"',
        "{}",
        "[]",
        "1" * 400,
        '"w1"',
        '"' + "a" * 3000 + '"',
    ]
    if depth > 3 or chance.random() < 0.6:
        return chance.choice(plain)
    items = [odd_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if chance.random() < 0.5:
        return f"[{','.join(items)}]"
    return "{" + ",".join(f'"{chance.choice(["even", "x", "questions"])}":{item}' for item in items) + "}"


def odd_body(chance: random.Random) -> bytes:
    """A request whose fields hold odd values."""
    path, fields = chance.choice(
        [
            ("/search", ("questions", "top_k", "where")),
            ("/encode", ("texts", "kind")),
            ("/rerank", ("question", "passages")),
        ]
    )
    pairs = [f'"{field}":{odd_value(chance)}' for field in fields if chance.random() < 0.9]
    return post(("{" + ",".join(pairs) + "}").encode(), path=path)


def deep_body(chance: random.Random) -> bytes:
    """JSON of up to 100,000 open brackets."""
    return post(chance.choice([b"[", b'{"a":']) * chance.choice([10, 1_000, 100_000]))


def odd_head(chance: random.Random) -> bytes:
    """Wrong methods, paths, lengths and headers."""
    body = b'{"questions": ["w1"]}'
    return chance.choice(
        [
            post(body, "Transfer-Encoding: chunked"),
            post(b"no chunk\r\n" * 30, "Transfer-Encoding: chunked", length=False),
            post(body, "Content-Length: 5"),
            post(body, "Content-Length: -5", length=False),
            post(body, "Content-Length: " + "9" * 40, length=False),
            post(body, "Host: evil.example"),
            post(body, f"X-{'a' * 70_000}: b"),
            post(body, path=f"/{chance.choice(['..', '%2e%2e', 'docs/..', 'a' * 5000])}"),
            post(body).replace(b"POST", chance.choice([b"PUT", b"DELETE", b"TRACE", b"CONNECT", b"", b"\x00"])),
            post(body).replace(b"HTTP/1.1", chance.choice([b"HTTP/9.9", b"HTTP/1.0", b"", b"SMTP"])),
            bytes(chance.randrange(256) for _ in range(chance.randrange(1, 400))) + b"\r\n\r\n",
        ]
    )


def costly_body(chance: random.Random) -> bytes:
    """What is within the size limit and would cost much: many filter keys and values, many documents, long texts."""
    body = chance.choice(
        [
            {"questions": ["w1"], "where": {f"k{chance.random()}": 0 for _ in range(chance.choice([8, 1_000]))}},
            {"questions": ["w1"], "where": {"even": list(range(chance.choice([256, 40_000])))}},
            {"questions": ["w1 w2"] * 64, "top_k": chance.choice([62, 1_000])},
            {"questions": ["w1 " * 6_000] * chance.choice([1, 64])},
        ]
    )
    return post(json.dumps(body).encode())


KINDS: dict[str, tuple[Request, float]] = {
    "odd values": (odd_body, 1.0),
    "odd heads": (odd_head, 1.0),
    "deep JSON": (deep_body, 0.1),
    "costly": (costly_body, 0.1),
}
"""Name -> what draws a request, and the share of `--requests` that is sent."""


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes and return the answer; empty where the server closes without one."""
    with socket.create_connection((HOST, port), timeout=30) as connection:
        try:
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
        except ConnectionError:  # closed before all was sent
            return b""
        return answer


def resident_mib(process: int) -> float:
    """Return the memory of a process in MiB (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def wait_for(port: int) -> None:
    """Wait until the server answers."""
    while True:
        try:
            if exchange(port, f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()):
                return
        except OSError:
            time.sleep(0.2)


def main() -> None:
    """Attack a server and print what it answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="requests per kind (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve[0]), int(arguments.serve[1]))
        return
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    chance, bad = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w", encoding="utf-8") as log:
        command = [sys.executable, __file__, "--serve", folder, str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(port)
            print(f"{'kind':12} {'sent':>6} {'slowest s':>9} {'MiB':>6}  answers")
            for name, (draw, share) in KINDS.items():
                statuses: Counter[str] = Counter()
                slowest = 0.0
                for _ in range(max(1, int(arguments.requests * share))):
                    begin = time.monotonic()
                    answer = exchange(port, draw(chance))
                    slowest = max(slowest, time.monotonic() - begin)
                    status = answer[9:12].decode("latin-1") or "closed"
                    statuses[status] += 1
                    bad += status.startswith("5") and status != "503"
                    bad += b"Traceback" in answer or b"/site-packages/" in answer
                bad += slowest > 2
                counts = "  ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
                print(f"{name:12} {sum(statuses.values()):6} {slowest:9.2f} {resident_mib(server.pid):6.0f}  {counts}")
            wait_for(port)
        finally:
            server.terminate()
            server.wait(40)
        written = Path(folder, "log").read_text(encoding="utf-8")
        tracebacks = written.count("Traceback")
        if tracebacks:
            print(written[max(0, written.index("Traceback") - 300) :][:8000])
    print(f"tracebacks in the log: {tracebacks}; faults: {bad}")
    sys.exit(1 if bad or tracebacks else 0)


if __name__ == "__main__":
    main()
