"""Whatever stands in documents and questions: nothing crashes, nothing is changed on its way, the index stays whole."""

import json
import random

import pytest

from drdecr.data.corpus import read_documents
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import build_index, open_or_create_index
from drdecr.retrieval.passages import Splitter
from drdecr.retrieval.retriever import DirectRetriever

SCRIPTS = (
    (0x41, 0x5A),
    (0x590, 0x5FF),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
)
PARTS = (
    *(
        "",
        " ",
        "\t",
        "\r\n",
        "\x00",
        "\x07",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\u200b",
        "\u202e",
        "\u2066",
        "\xad",
    ),
    *("👩‍👩‍👧‍👦", "🏴‍☠️", "🇫🇮", "e\u0301" * 9, "z" + "\u0335" * 40, "\ud800", "\udfff", "\U0010ffff", "\ufffe", "ﷺ"),
    *(
        "<s>",
        "</s>",
        "[Q]",
        "[D]",
        "[MASK]",
        "<pad>",
        "\\",
        '"',
        "'",
        "{}",
        "%s",
        "../../etc",
        "NaN",
        "'; DROP TABLE",
        "1e999",
    ),
)


def odd_text(chance: random.Random) -> str:
    """Draw a text of odd parts, mixed scripts and broken bytes; one in a hundred is huge."""
    pieces = []
    for _ in range(chance.randrange(12)):
        low, high = chance.choice(SCRIPTS)
        letters = "".join(chr(chance.randint(low, high)) for _ in range(chance.randrange(8)))
        broken = bytes(chance.randrange(256) for _ in range(3)).decode("utf-8", "replace")
        pieces.append(chance.choice([letters, broken, chance.choice(PARTS), " the sea "]))
    text = "".join(pieces)
    return text * 200 if chance.random() < 0.01 else text


@pytest.mark.parametrize("count", [80, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_odd_inputs_neither_crash_nor_corrupt(count, tmp_path, tiny_model):
    chance = random.Random(0)
    texts = {f"{number} {odd_text(chance)[:30]}": odd_text(chance) for number in range(count)}
    rows = [
        {"id": name, "text": text, "title": odd_text(chance)[:200], "mark": odd_text(chance)[:200]}
        for name, text in texts.items()
    ]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    documents = {document.document_id: document for document in read_documents(tmp_path / "odd.jsonl")}
    with open_or_create_index(tmp_path / "index", 16, {}, "int8", 1) as index:
        build_index(tiny_model, documents.values(), index, Splitter(overlap=2), show_progress_bar=False)
    index = StoredIndex.open(tmp_path / "index")
    seen = set()
    for payload in index.payloads(index.passage_ids()):
        document = documents[payload["document_id"]]
        assert payload["text"] == document.text[payload["start"] : payload["end"]]
        assert (payload["title"], payload["mark"]) == (document.title, document.metadata["mark"])
        seen.add(document.document_id)
    assert seen == documents.keys()
    system = DirectRetriever(tiny_model, index)
    questions = [odd_text(chance).encode("utf-8", "replace").decode() for _ in range(min(count, 300))]
    for start in range(0, len(questions), 50):
        for found in system.search(questions[start : start + 50], top_k=3):
            assert len({one.document_id for one in found}) == 3
    name = next(iter(documents))
    assert [one.document_id for one in system.search(["sea"], 2, {"document_id": name})[0]] == [name]
