"""Sets as a dataset folder: read back by `load_dataset`, whole, streamed and by column, by our readers, and by a cache."""

import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from huggingface_hub import DatasetCard

from drdecr.data import hub as export
from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.hub import push_dataset, write_dataset
from drdecr.data.sources import read_candidates, read_parallel, read_questions, read_tokens

PARALLEL = [{"query": f"z {n}", "english": f"text {n}", "language": "xx" if n % 2 else "yy"} for n in range(20)]
PASSAGES = [{"document_id": f"p{n}", "text": f"passage {n}"} for n in range(4)]
CANDIDATES = [
    {**row, "document_ids": ["p1", "p0"], "teacher_scores": [0.1 + n, -2.5], "teacher_query_tokens": n}
    for n, row in enumerate(PARALLEL)
]
QUESTIONS = [{"query_id": f"q{n}", **row, "document_ids": [f"p{n % 4}"]} for n, row in enumerate(PARALLEL)]


def configs():
    rows = Dataset.from_list(PARALLEL)
    return {
        "parallel": {"train": rows.select(range(15)), "dev": rows.select(range(15, 20))},
        "unlabelled_queries_candidates": {
            "train": Dataset.from_list(CANDIDATES),
            "dev": Dataset.from_list(CANDIDATES[:0]),
        },
        "passages": {"train": Dataset.from_list(PASSAGES)},
        "evaluation_dev": {"test": Dataset.from_list(QUESTIONS)},
    }


@pytest.fixture
def folder(tmp_path):
    write_dataset(
        tmp_path / "set", configs(), "# Text", {"language": ["xx"], "license": "cc0-1.0"}, "stage: relevance\n"
    )
    return tmp_path / "set"


def test_what_was_written_is_what_is_loaded(folder, tmp_path):
    for name, splits in configs().items():
        loaded = load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == {split for split, rows in splits.items() if len(rows)}
        assert all(loaded[split].to_list() == rows.to_list() for split, rows in splits.items() if len(rows))
        assert all(loaded[split].features == rows.features for split, rows in splits.items() if len(rows))


def test_it_is_streamed_and_read_by_column(folder, tmp_path):
    streamed = load_dataset(str(folder), "unlabelled_queries_candidates", split="train", streaming=True)
    assert list(streamed) == CANDIDATES
    some = load_dataset(
        str(folder), "parallel", split="dev", columns=["english", "language"], cache_dir=str(tmp_path / "cache")
    )
    assert some.to_list() == [{key: row[key] for key in ("english", "language")} for row in PARALLEL[15:]]


def test_our_readers_take_it_by_name(folder):
    name = str(folder)
    assert read_parallel([{"format": "hub", "name": name, "config": "parallel"}]).to_list() == PARALLEL[:15]
    found = read_candidates({"format": "hub_candidates", "name": name})
    assert found.rows.to_list() == CANDIDATES
    assert found.passages == {f"p{n}": f"passage {n}" for n in range(4)}
    questions = read_questions(
        {"format": "hub_questions", "name": name, "questions": "evaluation_dev", "split": "test"}
    )
    assert questions.qrels["q6"] == {"p2": 1}


def test_candidates_without_their_passage_or_score_are_refused(tmp_path):
    for number, (key, value, message) in enumerate(
        [
            ("document_ids", ["p1", "p9"], "candidate 'p9' is not among the 4 passages"),
            ("teacher_scores", [1.0], "a score for each of 2 candidates, got 1"),
        ]
    ):
        rows = Dataset.from_list([*CANDIDATES[:2], {**CANDIDATES[2], key: value}])
        parts = {"unlabelled_queries_candidates": {"train": rows}, "passages": {"train": Dataset.from_list(PASSAGES)}}
        write_dataset(tmp_path / str(number), parts, "")
        with pytest.raises(ValueError, match=f"row 3: .*{message}"):
            read_candidates({"format": "hub_candidates", "name": str(tmp_path / str(number))})


def test_many_rows_are_several_files(tmp_path, monkeypatch):
    rows = Dataset.from_list(PARALLEL)
    monkeypatch.setattr(export, "SHARD_BYTES", rows.data.nbytes // 3 + 1)
    write_dataset(tmp_path / "set", {"parallel": {"train": rows.select(list(range(20)))}}, "")
    assert sorted(path.name for path in (tmp_path / "set" / "parallel").iterdir()) == [
        f"train-0000{n}-of-00003.parquet" for n in range(3)
    ]
    loaded = load_dataset(str(tmp_path / "set"), "parallel", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == PARALLEL


def test_the_card_is_a_card(folder):
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc0-1.0"
    assert [entry["config_name"] for entry in card.data.to_dict()["configs"]] == list(configs())
    assert card.text.strip() == "# Text"
    assert (folder / "recipe.yaml").read_text() == "stage: relevance\n"


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(DatasetCard, "__init__", interrupted)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tmp_path / "set", configs(), "")
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    write_dataset(tmp_path / "set", configs(), "")  # over what the interrupted one left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_nothing_is_overwritten_and_nothing_is_no_dataset(folder, tmp_path):
    with pytest.raises(ValueError, match="nothing is overwritten"):
        write_dataset(folder, configs(), "")
    with pytest.raises(ValueError, match="got none"):
        write_dataset(tmp_path / "other", {"parallel": {"train": Dataset.from_list(PARALLEL[:0])}}, "")
    with pytest.raises(ValueError, match="expected an exported dataset"):
        push_dataset(tmp_path / "other", "user/name")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_token_cache_survives_parquet(parts, tmp_path):
    """In one table, and in one of two pieces whose lists start at an offset."""
    torch.manual_seed(0)
    keys, lengths = ["a", "b", "c"], [3, 1, 5]
    tokens = [torch.randn(length, 8) for length in lengths]
    flags = [torch.arange(length) % 2 == 0 for length in lengths]
    rows = TokenCache(keys, tokens, flags).to_dataset()
    if parts == 2:
        rows = concatenate_datasets([rows.select(range(1)), rows.select(range(1, 3))])
    write_dataset(tmp_path / "set", {"teacher_queries": {"train": rows}}, "")
    found = read_tokens({"format": "hub_tokens", "name": str(tmp_path / "set")})
    for key, expected, flag in zip(keys, tokens, flags, strict=True):
        assert torch.equal(found.tokens(key), expected.half())
        padded, _, text_mask = found.padded([key])
        assert padded.dtype == torch.float16
        assert torch.equal(text_mask[0], flag)


def test_what_is_known_about_a_source_is_no_argument(folder):
    entry = {"format": "hub", "name": str(folder), "config": "parallel", "about": {"license": "cc0-1.0"}}
    assert len(read_parallel([entry])) == 15
