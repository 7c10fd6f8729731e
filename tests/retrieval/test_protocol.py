"""Every engine keeps the promises of `PassageIndex`, and finds what a loop over all pairs finds."""

import pytest
import torch

from drdecr.retrieval import PassageIndex, StoredIndex

ENGINES = ("stored", "qdrant folder", "qdrant", "qdrant with candidates")


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Return a function that makes an empty index, and one that opens it again."""
    if request.param == "stored":
        folder = tmp_path / "index"
        yield (lambda: StoredIndex.create(folder, dim=8)), (lambda: StoredIndex.open(folder))
    else:
        QdrantClient = pytest.importorskip("qdrant_client").QdrantClient
        from drdecr.retrieval.qdrant.index import QdrantIndex

        options = {"num_candidates": 100 if "candidates" in request.param else None}
        is_folder = "folder" in request.param
        clients = [QdrantClient(path=str(tmp_path / "qdrant")) if is_folder else QdrantClient(":memory:")]

        def reopen():
            if is_folder:  # what was written is read from the disk
                clients[0].close()
                clients[0] = QdrantClient(path=str(tmp_path / "qdrant"))
            return QdrantIndex(clients[0], "passages", 8, **options)

        yield (lambda: QdrantIndex.create(clients[0], "passages", 8, **options)), reopen
        clients[0].close()


def names(count):
    return [f"p{number}" for number in range(count)]


def test_an_engine_adds_finds_filters_replaces_and_deletes(engine, ragged, ranked, monkeypatch):
    monkeypatch.setattr("drdecr.retrieval.qdrant.index.IDS_PER_CALL", 7)  # ids come in several answers
    create, reopen = engine
    passages, queries = ragged(30, seed=0, shortest=1), ragged(4, seed=1, shortest=1)
    index = create()
    assert isinstance(index, PassageIndex)
    payloads = [{"third": number % 3, "even": number % 2 == 0, "tags": ["a", f"t{number}"]} for number in range(30)]
    index.add(names(30), passages, payloads)
    index.commit()
    held = dict(zip(names(30), passages, strict=True))

    def same(where=None, among=held):
        hits = index.search(queries, top_k=5, where=where)
        for query, ids, scores in zip(queries, hits.document_ids, hits.scores, strict=True):
            truth = ranked(query, among, 5)
            assert ids == [name for name, _ in truth]
            assert scores == pytest.approx([score for _, score in truth], abs=5e-3)

    same()
    same({"third": 1}, {name: held[name] for name in names(30)[1::3]})
    same({"third": [0, 1], "even": True}, {f"p{n}": held[f"p{n}"] for n in range(0, 30, 2) if n % 3 != 2})
    same({"tags": "t7"}, {"p7": held["p7"]})
    held["p3"] = ragged(1, seed=7, shortest=4)[0]
    index.add(["p3"], [held["p3"]], [{"new": True}])
    index.delete(["p4", "never there"])
    assert index.delete(where={"third": 2}) >= 9
    assert index.delete(["p6", "p7", "p9"], where={"even": False}) == 2
    index.commit()
    for name in ("p4", "p7", "p9", *names(30)[2::3]):
        held.pop(name, None)
    assert len(index) == len(held)
    assert sorted(index.passage_ids()) == sorted(held)
    same(among=held)
    assert index.payloads(["p3", "p0"]) == [{"new": True}, payloads[0]]
    getattr(index, "close", lambda: None)()
    index = reopen()
    assert len(index) == len(held)
    same(among=held)


def test_an_engine_refuses_what_it_cannot_keep_or_find(engine, ragged):
    import torch

    index = engine[0]()
    index.add(["a", "empty"], [ragged(1, seed=0, shortest=1)[0], torch.empty(0, 8)])
    index.commit()
    assert len(index) == 2
    assert index.search([], top_k=3).document_ids == []
    found = index.search([ragged(1, seed=1, shortest=1)[0], torch.empty(0, 8)], top_k=3).document_ids
    assert found[0][0] == "a"
    with pytest.raises(ValueError, match="twice"):
        index.add(["b", "b"], ragged(2, seed=0))
    with pytest.raises(ValueError, match=r"tokens, 8"):
        index.add(["b"], [torch.ones(1, 4)])
    with pytest.raises(ValueError, match="top_k"):
        index.search(ragged(1, seed=0), top_k=0)
    for nothing in ({}, {"where": {}}):  # an empty filter is none, or it would delete all
        with pytest.raises(ValueError, match="neither"):
            index.delete(**nothing)
    for call in (lambda: index.delete("a"), lambda: index.add("a", ragged(1, seed=0))):
        with pytest.raises(ValueError, match=r"Expected a list of passage ids, got the text 'a'\. Write \['a'\]"):
            call()
    circular: dict = {}
    circular["own"] = circular
    for payload in ({"a": object()}, {1: "a"}, "text", circular):
        with pytest.raises(ValueError, match="Passage 'b': expected a payload that is a mapping of what JSON can hold"):
            index.add(["c", "b"], ragged(2, seed=0), [{}, payload])
    index.commit()
    assert sorted(index.passage_ids()) == ["a", "empty"]
    index.add(["a"], [ragged(1, seed=0, shortest=1)[0].requires_grad_()])  # as of a forward pass outside of no_grad
    index.commit()
    assert index.search(ragged(1, seed=1, shortest=1), top_k=2**62).document_ids[0][0] == "a"
    with pytest.raises(ValueError, match="'nobody' is none of the"):
        index.payloads(["nobody"])


def test_filters_of_any_key_and_number_find_the_same_in_every_engine(engine, ragged):
    index = engine[0]()
    odd = {"a.b": "x", "w s": "x", "": "x", "[0]": "x", "é": "x", "a": {"b": "y"}}
    numbers = [2, 2.0, 2.5, [1, 2.5], True, "2", -7, 2**53 + 1]
    rows = [{"number": number, **odd} for number in numbers]
    index.add(names(len(rows)), ragged(len(rows), seed=0, shortest=1), rows)
    index.commit()

    def found(where):
        return sorted(int(name[1:]) for name in index.search(ragged(1, seed=1, shortest=1), 20, where).document_ids[0])

    for key, value in odd.items():
        if value == "x":
            assert found({key: "x"}) == list(range(len(rows))), key
            assert found({key: "y"}) == []
    for wanted, rows_found in [
        (2, [0, 1]),
        (2.0, [0, 1]),
        (2.5, [2, 3]),
        (1, [3]),
        (True, [4]),
        ("2", [5]),
        ([-7, "2", 2.5], [2, 3, 5, 6]),
        (2**53 + 1, [7]),
        (0.5, []),
    ]:
        assert found({"number": wanted}) == rows_found, wanted


def test_a_cluster_gets_no_larger_requests_than_it_takes(ragged, monkeypatch):
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    from drdecr.retrieval.qdrant import points as qdrant_common
    from drdecr.retrieval.qdrant.index import QdrantIndex

    monkeypatch.setattr(qdrant_common, "NUMBERS_PER_CALL", 100)
    written, asked = [], []
    upsert, query = client.upsert, client.query_batch_points
    monkeypatch.setattr(client, "upsert", lambda _name, points, **more: written.append(points) or upsert(_name, points))
    monkeypatch.setattr(client, "query_batch_points", lambda _name, rows: asked.append(rows) or query(_name, rows))
    index = QdrantIndex.create(client, "passages", 8, num_candidates=None)
    passages = [*ragged(30, seed=0), torch.ones(20, 8)]
    index.add(names(31), passages)
    sizes = [[len(point.vector.get("tokens", ())) * 8 for point in points] for points in written]
    assert sum(map(len, sizes)) == len(index) == 31
    assert all(sum(own) <= 100 or len(own) == 1 for own in sizes)
    assert len(sizes) < 31
    queries = ragged(20, seed=1)
    hits = index.search(queries, top_k=3)
    assert len(asked) > 1
    for query_tokens, ids in zip(queries, hits.document_ids, strict=True):
        assert ids == index.search([query_tokens], top_k=3).document_ids[0]


def test_qdrant_says_what_it_cannot_filter_by():
    models = pytest.importorskip("qdrant_client").models
    from drdecr.retrieval.qdrant.points import filter_of

    for value in (None, [], {"a": 1}, [None, "a"], 2**64, float("nan")):
        with pytest.raises(ValueError, match=r"filter k: Qdrant matches texts.* Leave it out, or"):
            filter_of({"k": value}, models)
    for key in ('a"b', "a\\b"):
        with pytest.raises(ValueError, match="with a quote or a backslash"):
            filter_of({key: "a"}, models)


def test_qdrant_settings_are_those_of_the_runbook(tmp_path):
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    from drdecr.retrieval.qdrant.index import QdrantIndex

    made = QdrantIndex.create(client, "passages", 8, shards=6, replicas=2)
    vectors = client.get_collection("passages").config.params.vectors
    assert vectors["tokens"].multivector_config.comparator == "max_sim"
    assert vectors["tokens"].hnsw_config.m == 0
    assert vectors["muvera"].size == made.encoding.width == 2560
    with pytest.raises(ValueError, match="exists already"):
        QdrantIndex.create(client, "passages", 8)


@pytest.mark.parametrize(
    ("queries", "top_k", "message"),
    [
        ([torch.full((2, 8), torch.nan)], 3, "Query 0: expected embeddings of length 1, got NaN"),
        (torch.ones(2, 8), 3, "Expected a list of query embeddings, got one tensor"),
        ([[1.0] * 8], 3, r"Query 0: expected embeddings \(tokens, 8\), got list"),
        ([torch.ones(2, 7)], 3, r"Query 0: expected embeddings \(tokens, 8\), got \(2, 7\)"),
        ([torch.ones(2, 8)], "3", "top_k: expected a whole number of at least 1, got '3'"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(tmp_path, queries, top_k, message):
    with StoredIndex.create(tmp_path / "index", dim=8) as index, pytest.raises(ValueError, match=message):
        index.search(queries, top_k)


def with_number(value, dtype=torch.float32):
    return torch.full((2, 8), value, dtype=dtype)


@pytest.mark.parametrize(
    ("ids", "embeddings", "message"),
    [
        ([None], [with_number(0.1)], "Passage ids must be texts that are not empty, got None"),
        ([5], [with_number(0.1)], "got 5"),
        ([b"x"], [with_number(0.1)], "got b'x'"),
        ([""], [with_number(0.1)], "got ''"),
        (None, [with_number(0.1)], "Expected a list of passage ids, got NoneType"),
        (["a"], None, "expected a list of embeddings, one for each passage, got NoneType"),
        (["a"], [with_number(0.1).numpy()], r"expected embeddings \(tokens, 8\), got ndarray"),
        (["a"], [[[0.1] * 8]], r"expected embeddings \(tokens, 8\), got list"),
        (["a"], [with_number(70_000.0)], "numbers above 65,504, which half precision does not hold"),
        (["a"], [with_number(-1e30)], "numbers above 65,504"),
        (["a"], [with_number(1e300, torch.float64)], "numbers above 65,504"),
        (["a"], [with_number(float("nan"))], "got NaN"),
        (["a"], [with_number(1j, torch.complex64)], "expected embeddings of a dense float type, got torch.complex64"),
        (["a"], [with_number(1, torch.int64)], "dense float type, got torch.int64"),
        (["a"], [with_number(0.1).to_sparse()], "dense float type"),
    ],
)
def test_a_passage_that_would_spoil_the_others_is_refused_before_anything_is_pending(engine, ids, embeddings, message):
    index = engine[0]()
    index.add(["good"], [with_number(0.3)])
    with pytest.raises(ValueError, match=message):
        index.add(ids, embeddings)
    index.add(["next"], [with_number(0.2)])
    index.commit()
    assert sorted(index.passage_ids()) == ["good", "next"]
    assert index.search([with_number(0.3)]).document_ids == [["good", "next"]]


@pytest.mark.parametrize("ids", [[None], [5], "a", b"a", 3, {"a": 1}, [""]])
def test_ids_that_are_none_are_refused_at_every_door(engine, ids):
    index = engine[0]()
    index.add(["a"], [with_number(0.3)])
    index.commit()
    for call in (index.delete, index.payloads, getattr(index, "embeddings", index.payloads)):
        with pytest.raises(ValueError, match=r"assage ids"):
            call(ids)
    with pytest.raises(ValueError, match="assage ids"):
        index.payloads(None)
    index.commit()
    assert len(index) == 1


def test_what_a_caller_changes_after_an_addition_is_not_written(tmp_path):
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        tokens, payload = with_number(0.25), {"tags": ["a"]}
        index.add(["a"], [tokens], [payload])
        tokens[:] = float("nan")
        payload["tags"].append(object())
        index.commit()
        assert index.embeddings(["a"])[0].equal(with_number(0.25))
        assert index.payloads(["a"]) == [{"tags": ["a"]}]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("x", r"filter: expected \{key: value\}"),
        ([("k", 1)], r"filter: expected \{key: value\}"),
        ({1: "x"}, r"filter: expected \{key: value\}"),
        ({"k": object()}, "values that JSON can hold"),
        ({"k": {1, (2, object())}}, "values that JSON can hold"),
        ({f"k{n}": 0 for n in range(33)}, "at most 32 keys and 10,000 values, got 33 and 33"),
        ({"k": list(range(10_001))}, "at most 32 keys and 10,000 values, got 1 and 10,001"),
    ],
)
def test_a_filter_that_is_none_or_costs_too_much_is_refused(engine, where, message):
    index = engine[0]()
    index.add(["a"], [with_number(0.3)], [{"k": 1}])
    index.commit()
    for call in (lambda: index.search([with_number(0.3)], 3, where), lambda: index.delete(where=where)):
        with pytest.raises(ValueError, match=message):
            call()
    assert len(index) == 1


@pytest.mark.parametrize(("name", "value"), [("top_k", True), ("top_k", 1.5), ("top_k", None), ("batch_size", 0)])
def test_numbers_that_are_none_are_refused(tmp_path, name, value):
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, got {value!r}"):
            index.search([with_number(0.3)], **{name: value})
        for queries in (None, [None], [with_number(1.0).numpy()], [with_number(1j, torch.complex64)]):
            with pytest.raises(ValueError, match="embeddings"):
                index.search(queries)


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": "16"},
        {"dim": 1.5},
        {"dim": 0},
        {"dim": True},
        {"pool_factor": 1.5},
        {"pool_factor": True},
        {"codec": 3},
        {"codec": "residual3", "dim": 9},
        {"metadata": {"x": object()}},
        {"metadata": "x"},
        {"precision": 3},
    ],
)
def test_an_index_of_settings_that_are_none_is_not_made(tmp_path, settings):
    with pytest.raises(ValueError, match="expected"):
        StoredIndex.create(tmp_path / "index", **{"dim": 8, **settings})
    assert not (tmp_path / "index").exists()
