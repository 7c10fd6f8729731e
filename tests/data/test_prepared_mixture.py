"""Mixtures of a prepared folder: the order is the seed's, from any place, in any number of processes, after any interruption."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from drdecr.data import prepared_mixture
from drdecr.data.files import write_json
from drdecr.data.prepare import prepared_shards
from drdecr.data.prepare.cleaning import CleaningSettings
from drdecr.data.prepare.leakage import HeldOutTexts
from drdecr.data.prepare.preparation import Preparation
from drdecr.data.prepare.prepared_shards import PROVENANCE
from drdecr.data.prepare.row_cleaner import Cleaner, PreparedSource
from drdecr.data.prepared_mixture import MixedStream, PreparedMixture

SIZES = {("news", "fi"): 90, ("news", "et"): 10, ("talk", "fi"): 40}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two sources, row groups of 4 rows, blocks of 50 places."""
    monkeypatch.setattr(prepared_shards, "ROW_GROUP", 4)
    monkeypatch.setattr(prepared_mixture, "ROW_GROUP", 4)
    monkeypatch.setattr(prepared_mixture, "WINDOW", 2)
    monkeypatch.setattr(prepared_mixture, "BLOCK", 50)
    for (source, language), size in SIZES.items():
        rows = (f"{source} {language} sana {n}\t{source} {language} word {n}\n" for n in range(size))
        (tmp_path / f"{source}-{language}.tsv").write_text("".join(rows))
    sources = [
        PreparedSource(
            name, {"format": "tsv", "path": str(tmp_path / f"{name}-{{language}}.tsv"), "languages": languages}
        )
        for name, languages in {"news": ["fi", "et"], "talk": ["fi"]}.items()
    ]
    cleaner = Cleaner(CleaningSettings(), HeldOutTexts([]), 1)
    reports = Preparation(tmp_path / "set", tmp_path / "journal", cleaner, rows_per_part=30).run(sources)
    write_json(tmp_path / "set" / PROVENANCE, {"sources": reports})
    return tmp_path / "set"


def texts(mixture) -> list[str]:
    return [mixture[index]["query"] for index in range(len(mixture))]


def strand(text: str) -> tuple[str, str]:
    return tuple(text.split()[:2])


def test_every_row_of_a_language_comes_before_one_comes_again(folder):
    found = texts(PreparedMixture(folder, 700))
    for name, size in SIZES.items():
        own = [text for text in found if strand(text) == name]
        assert len(own) > size
        passes = [own[start : start + size] for start in range(0, len(own), size)]
        assert all(max(Counter(one).values()) == 1 for one in passes)
        assert passes[0] != sorted(passes[0])
        assert passes[0][: len(passes[1])] != passes[1]  # each pass has an order of its own


def test_a_place_is_read_alone_as_it_is_read_in_order(folder):
    found = texts(PreparedMixture(folder, 300))
    for index in (299, 0, 130, 50, 49):
        assert PreparedMixture(folder, 300)[index]["query"] == found[index]
    assert texts(PreparedMixture(folder, 300, seed=2)) != found


def test_two_processes_take_alternating_batches_of_the_same_order(folder):
    mixture = PreparedMixture(folder, 96)
    sampler = BatchSampler(SequentialSampler(mixture), 8, drop_last=True)
    parts = [[mixture[i]["query"] for batch in BatchSamplerShard(sampler, 2, rank) for i in batch] for rank in (0, 1)]
    whole = texts(mixture)
    for number in range(12):
        assert parts[number % 2][number // 2 * 8 : (number // 2 + 1) * 8] == whole[number * 8 : (number + 1) * 8]


def expected_shares(weights, temperature):
    by_source = {"news": 100, "talk": 40} if weights is None else weights
    parts = {}
    for source in by_source:
        powers = {key: size ** (1 / temperature) for key, size in SIZES.items() if key[0] == source}
        for key, power in powers.items():
            parts[key] = by_source[source] / sum(by_source.values()) * power / sum(powers.values())
    return parts


@pytest.mark.parametrize(
    ("weights", "temperature"), [(None, 1), (None, 3), ({"news": 1, "talk": 3}, 1e9), ({"talk": 2}, 1)]
)
def test_sources_come_by_weight_and_languages_by_temperature(weights, temperature, folder):
    mixture = PreparedMixture(folder, 4000, weights, temperature)
    counted = Counter(strand(text) for text in texts(mixture))
    shares = expected_shares(weights, temperature)
    assert set(counted) == set(shares)
    for key, share in shares.items():  # four standard deviations of a draw
        assert abs(counted[key] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5 + 1e-9


def test_languages_and_sources_mix_within_a_batch(folder):
    found = texts(PreparedMixture(folder, 320, language_temperature=1e9))
    kinds = [len({strand(text) for text in found[start : start + 32]}) for start in range(0, 320, 32)]
    assert min(kinds) == 3


def test_a_stream_gives_the_same_rows_in_processes_workers_and_after_a_stop(folder):
    mixture = PreparedMixture(folder, 64)
    whole = texts(mixture)
    assert [row["query"] for row in MixedStream(mixture, 4)] == whole
    loader = DataLoader(MixedStream(mixture, 4), batch_size=4, num_workers=2, collate_fn=list)
    assert [row["query"] for batch in loader for row in batch] == whole
    parts = [[row["query"] for row in MixedStream(mixture, 4, rank, 2)] for rank in (0, 1)]
    assert [text for k in range(16) for text in parts[k % 2][k // 2 * 4 : (k // 2 + 1) * 4]] == whole
    stream = MixedStream(mixture, 4)
    rows = iter(stream)
    first = [next(rows)["query"] for _ in range(13)]
    other = MixedStream(PreparedMixture(folder, 64), 4)
    other.load_state_dict(stream.state_dict())
    assert first + [row["query"] for row in other] == whole


def test_some_rows_ask_in_english_and_unwanted_ones_give_way(folder):
    mixture = PreparedMixture(folder, 2000, english_share=0.25, is_unwanted=lambda row: row["query"].endswith("7"))
    rows = [mixture[index] for index in range(2000)]
    english = [row for row in rows if row["language"] == "en"]
    assert all(row["query"] == row["english"] for row in english)
    assert abs(len(english) / 2000 - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5
    assert not any(row["query"].endswith("7") for row in rows)


def test_a_lone_wanted_row_is_always_found_and_an_unwanted_one_never_given(folder):
    lone = PreparedMixture(folder, 40, languages=["et"], is_unwanted=lambda row: row["query"] != "news et sana 3")
    assert set(texts(lone)) == {"news et sana 3"}
    none = PreparedMixture(folder, 40, languages=["et"], is_unwanted=lambda row: row["language"] == "et")
    with pytest.raises(ValueError, match="news, et: expected a row that may be trained on, but all 10 are held out"):
        none[0]


def test_a_flipped_bit_never_gives_other_text(folder):
    whole = texts(PreparedMixture(folder, 10, languages=["et"]))
    (shard,) = (folder / "parallel" / "news").glob("et-*.parquet")
    content = shard.read_bytes()
    messages = []
    for place in range(0, len(content), 31):
        damaged = bytearray(content)
        damaged[place] ^= 4
        shard.write_bytes(damaged)
        try:
            assert texts(PreparedMixture(folder, 10, languages=["et"])) == whole  # it hit what says nothing of the rows
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(f"{shard}: expected a whole shard" in message for message in messages)


def test_what_cannot_be_drawn_is_refused_in_words(folder):
    for weights, message in (({"news": 0}, "positive number"), ({"nows": 1}, "expected parallel text of nows")):
        with pytest.raises(ValueError, match=message):
            PreparedMixture(folder, 8, weights)
    with pytest.raises(ValueError, match=r"from 1 up, got 0\.5"):
        PreparedMixture(folder, 8, language_temperature=0.5)
    with pytest.raises(ValueError, match="expected a folder that `drdecr data prepare` wrote"):
        PreparedMixture(folder.parent, 8)
    shard = next(folder.rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{shard.name}: expected a shard of"):
        PreparedMixture(folder, 8)
