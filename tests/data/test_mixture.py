"""Mixtures: one set a batch, every row once before any twice, the same order in any number of processes."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler, SequentialSampler

from drdecr.data.mixture import MixedSet


def named(name: str, count: int) -> list[dict[str, str]]:
    return [{"row": f"{name}{number}"} for number in range(count)]


SETS = {"a": named("a", 7), "b": named("b", 20)}


def order(mixture: MixedSet) -> list[str]:
    return [mixture[index]["row"] for index in range(len(mixture))]


def batches(mixture: MixedSet, size: int) -> list[list[str]]:
    rows = order(mixture)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def test_a_batch_comes_from_one_set():
    mixture = MixedSet(SETS, batch_size=4, num_batches=50)
    assert len(mixture) == 200
    assert all(len({row[0] for row in batch}) == 1 for batch in batches(mixture, 4))


def test_every_row_is_used_before_one_is_used_again():
    rows = order(MixedSet(SETS, batch_size=4, num_batches=50))
    for name, found in SETS.items():
        own = [row for row in rows if row[0] == name]
        for start in range(0, len(own), len(found)):
            times = Counter(own[start : start + len(found)])
            assert max(times.values()) == 1, (name, start)
    assert len({tuple(row for row in rows if row[0] == "a")[start : start + 7] for start in (0, 7, 14)}) == 3


def test_the_order_is_the_seeds_and_no_other():
    first, again, other = (order(MixedSet(SETS, 4, 30, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_weights_say_how_often_a_set_is_drawn():
    mixture = MixedSet(SETS, batch_size=2, num_batches=4000, weights={"a": 3, "b": 1})
    share = mixture.batches_of("a", 2) / 4000
    assert share == pytest.approx(0.75, abs=0.03)
    assert mixture.batches_of("a", 2) + mixture.batches_of("b", 2) == 4000
    assert sum(batch[0][0] == "a" for batch in batches(mixture, 2)) == mixture.batches_of("a", 2)


def test_without_weights_a_set_is_drawn_by_its_size():
    mixture = MixedSet(SETS, batch_size=2, num_batches=4000)
    assert mixture.batches_of("b", 2) / 4000 == pytest.approx(20 / 27, abs=0.03)


def test_two_processes_take_alternating_batches_of_the_same_order():
    mixture = MixedSet(SETS, batch_size=4, num_batches=12)
    sampler = BatchSampler(SequentialSampler(mixture), batch_size=4, drop_last=False)
    whole = batches(mixture, 4)
    for process in (0, 1):
        shard = BatchSamplerShard(sampler, num_processes=2, process_index=process)
        assert [[mixture[index]["row"] for index in batch] for batch in shard] == whole[process::2]


def test_no_batches_are_an_empty_mixture():
    assert len(MixedSet(SETS, batch_size=4, num_batches=0)) == 0


def test_bad_input_is_refused_in_words():
    with pytest.raises(ValueError, match="needs sets with rows, got none"):
        MixedSet({}, 4, 3)
    with pytest.raises(ValueError, match="got no rows in 'b'"):
        MixedSet({"a": named("a", 3), "b": []}, 4, 3)
    for weights in ({"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": float("nan")}):
        with pytest.raises(ValueError, match="expected a positive number for each of a, b"):
            MixedSet(SETS, 4, 3, weights=weights)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        MixedSet(SETS, 0, 3)


def test_rows_of_like_length_share_a_batch_and_none_is_lost():
    lengths = {"a": [1, 50] * 16, "b": [7] * 20}
    rows = {"a": named("a", 32), "b": SETS["b"]}
    mixture = MixedSet(rows, batch_size=4, num_batches=26, seed=3, lengths=lengths)
    own = [row for row in order(mixture) if row[0] == "a"]
    pure = [{lengths["a"][int(row[1:])] for row in own[start : start + 4]} for start in range(0, len(own), 4)]
    assert sum(len(found) == 1 for found in pure) >= len(pure) - 1, "a pass of 32 rows fills one window exactly"
    for start in range(0, len(own) - 31, 32):
        assert len(set(own[start : start + 32])) == 32
    assert {max(found) for found in pure[:8]} == {1, 50}
    assert [max(found) for found in pure[:8]] != sorted(max(found) for found in pure[:8]), "batches stay shuffled"


LANGUAGES = {"a": ["fi"] * 2 + ["et"] * 5, "b": ["fi"] * 18 + ["et"] * 2}


@pytest.mark.parametrize("temperature", [1, 2, 1e9])
def test_languages_come_by_temperature_and_are_used_up_before_they_start_again(temperature):
    mixture = MixedSet(SETS, 4, 1000, {"a": 1, "b": 3}, languages=LANGUAGES, language_temperature=temperature)
    rows = order(mixture)
    for name, codes in LANGUAGES.items():
        own = [row for row in rows if row[0] == name]
        for code in ("fi", "et"):
            members = [f"{name}{number}" for number, found in enumerate(codes) if found == code]
            drawn = [row for row in own if row in members]
            share = len(members) ** (1 / temperature) / sum(
                codes.count(one) ** (1 / temperature) for one in ("fi", "et")
            )
            assert abs(len(drawn) / len(own) - share) < 4 * (share * (1 - share) / len(own)) ** 0.5 + 0.01
            if temperature > 1:  # by size, the set as a whole is used up
                passes = [drawn[start : start + len(members)] for start in range(0, len(drawn), len(members))]
                assert all(max(Counter(one).values()) == 1 for one in passes)


@pytest.mark.parametrize("temperature", [1, 3, float("inf")])
def test_sources_come_by_weight_and_their_languages_by_temperature(temperature):
    kinds = [("news", "fi")] * 90 + [("news", "et")] * 10 + [("talk", "fi")] * 40
    sources, languages = ([kind[part] for kind in kinds] for part in (0, 1))
    weights = {"news": 1, "talk": 3}
    mixture = MixedSet(
        {"a": [{"row": number} for number in range(len(kinds))]},
        *(4, 1000, None, 7, None, {"a": languages}, temperature, {"a": sources}, weights),
    )
    drawn = [row["row"] for row in mixture.__getitems__(range(4000))]
    counted = Counter(kinds[row] for row in drawn)
    news = {"fi": 90 ** (1 / temperature), "et": 10 ** (1 / temperature)}
    expected = {("talk", "fi"): 0.75} | {("news", code): 0.25 * n / sum(news.values()) for code, n in news.items()}
    for kind, share in expected.items():  # four standard deviations of a draw
        assert abs(counted[kind] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
        rows = [row for row in drawn if kinds[row] == kind]
        size = kinds.count(kind)
        assert all(max(Counter(rows[at : at + size]).values()) == 1 for at in range(0, len(rows), size))


def test_a_batch_read_at_once_has_the_rows_of_one_by_one():
    mixture = MixedSet({"a": Dataset.from_list(SETS["a"]), "b": SETS["b"]}, batch_size=4, num_batches=9)
    places = [35, 0, 4, 17, 16, 4]
    assert mixture.__getitems__(places) == [mixture[place] for place in places]


def test_a_temperature_of_one_changes_nothing():
    plain, asked = (MixedSet(SETS, 4, 50, **more) for more in ({}, {"languages": LANGUAGES, "language_temperature": 1}))
    assert order(plain) == order(asked)
