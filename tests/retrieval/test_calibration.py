"""Calibrated scores: by a plain loop, and unmoved by what a language adds to all of its scores."""

import statistics

import pytest
import torch
from torch.nn.functional import normalize

from drdecr.retrieval import StoredIndex
from drdecr.retrieval.calibration import CalibratedIndex, LanguageCohort, check_languages
from drdecr.retrieval.stored.manifest import DamagedIndexError

LANGUAGES = ("en", "fi", "ar")


def unit(count, seed, drift=None):
    """Return a text of unit tokens; `drift` is a direction that all of a language's tokens lean to."""
    tokens = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return normalize(tokens + (0 if drift is None else drift), dim=-1)


@pytest.fixture
def drifts():
    return {code: 2 * unit(1, 90 + place)[0] for place, code in enumerate(LANGUAGES)}


@pytest.fixture
def cohort(drifts):
    made = {code: [unit(5, 100 + row, drifts[code]) for row in range(8)] for code in LANGUAGES}
    return LanguageCohort(made, {"model": "m"})


@pytest.fixture
def index(tmp_path, drifts):
    with StoredIndex.create(tmp_path / "index", 16) as opened:
        names = [f"{code}-{row}" for code in LANGUAGES for row in range(10)]
        tokens = [unit(5, row, drifts[code]) for code in LANGUAGES for row in range(10)]
        opened.add(names, tokens, [{"language": name[:2], "even": int(name[3:]) % 2 == 0} for name in names])
        opened.commit()
    return StoredIndex.open(tmp_path / "index")


def test_a_score_is_told_in_deviations_above_its_languages_mean(index, cohort, pair_score):
    queries = [unit(3, 70), unit(4, 71)]
    hits = CalibratedIndex(index, cohort).search(queries, top_k=30)
    for query, ids, scores in zip(queries, hits.document_ids, hits.scores, strict=True):
        own = {code: [pair_score(query, tokens) for tokens in cohort.embeddings[code]] for code in LANGUAGES}
        truth = {
            name: (pair_score(query, tokens) - statistics.fmean(own[name[:2]])) / statistics.stdev(own[name[:2]])
            for name, tokens in zip(index.passage_ids(), index.embeddings(index.passage_ids()), strict=True)
        }
        assert ids == sorted(truth, key=lambda name: -truth[name])
        assert scores == pytest.approx([truth[name] for name in ids], abs=1e-3)


def test_a_query_that_leans_to_a_language_finds_all_languages(index, cohort, drifts):
    queries = [normalize(unit(3, 200 + number) + drifts["fi"], dim=-1) for number in range(20)]
    plain = index.search(queries, top_k=10).document_ids
    assert sum(name.startswith("fi") for found in plain for name in found) > 190
    calibrated = CalibratedIndex(index, cohort).search(queries, top_k=10).document_ids
    shares = [sum(name.startswith(code) for found in calibrated for name in found) / 200 for code in LANGUAGES]
    assert all(0.2 < share < 0.45 for share in shares)


def test_filters_hold_also_of_the_language(index, cohort):
    calibrated, queries = CalibratedIndex(index, cohort), [unit(3, 70)]
    every = calibrated.search(queries, top_k=30)
    for where in ({"language": "fi"}, {"language": ["fi", "en"], "even": True}, {"even": False}, {"language": "sw"}):
        [ids], [scores] = vars(calibrated.search(queries, top_k=30, where=where)).values()
        kept = {
            name
            for name, payload in zip(index.passage_ids(), index.payloads(index.passage_ids()), strict=True)
            if all(payload[key] in (value if isinstance(value, list) else [value]) for key, value in where.items())
        }
        pairs = [pair for pair in zip(every.document_ids[0], every.scores[0], strict=True) if pair[0] in kept]
        assert ids == [name for name, _ in pairs]
        assert scores == pytest.approx([score for _, score in pairs], abs=1e-4)
    assert calibrated.search(queries, top_k=2).document_ids[0] == every.document_ids[0][:2]
    assert len(calibrated) == 30
    assert calibrated.payloads(["fi-1"]) == [{"language": "fi", "even": False}]


def test_a_cohort_survives_its_file(cohort, tmp_path):
    cohort.save(tmp_path / "c.safetensors")
    again = LanguageCohort.load(tmp_path / "c.safetensors")
    assert (again.metadata, again.languages) == (cohort.metadata, cohort.languages)
    query = [unit(3, 5)]
    for code in LANGUAGES:
        assert again.scales(query)[code][0] == pytest.approx(cohort.scales(query)[code][0], abs=1e-3)
    with pytest.raises(FileNotFoundError, match="drdecr index calibrate"):
        LanguageCohort.load(tmp_path / "none")


@pytest.mark.parametrize(("place", "cut"), [(2, None), (-9, None), (None, 0), (None, 100), (None, -1)])
def test_a_damaged_cohort_is_named(cohort, tmp_path, place, cut):
    path = tmp_path / "c.safetensors"
    cohort.save(path)
    content = bytearray(path.read_bytes())
    if place is not None:
        content[place] ^= 64
    path.write_bytes(content[:cut])
    with pytest.raises(DamagedIndexError, match=r"c\.safetensors: damaged, or no calibration\. Make it again"):
        LanguageCohort.load(path)


def test_what_cannot_be_calibrated_is_said(cohort):
    check_languages([{"language": "fi"}], cohort)
    for payload, shown in (
        ({"language": "sw"}, "'sw'"),
        ({}, "None"),
        ({"language": ""}, "''"),  # would not be found, and nobody told
        ({"language": ["fi", "en"]}, r"\['fi', 'en'\]"),
    ):
        with pytest.raises(ValueError, match=f"expected all passages in ar, en, fi, got 1 with language {shown}"):
            check_languages([{"language": "fi"}, payload], cohort)
    one = torch.ones(1, 4)
    for wrong, message in (
        ({}, "got none"),
        ({"fi": [one]}, "two passages or more in 'fi', got 1"),
        ({"fi": [one, one[:0]]}, "no token"),
        ({"fi": [one, torch.ones(1, 5)]}, "one width"),
    ):
        with pytest.raises(ValueError, match=message):
            LanguageCohort(wrong)
