"""Documents in shards, by a loop, by Ray's workers or by launched processes: what is found is what one index finds."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drdecr import encode, measuring, sharded_encoding
from drdecr.encode import Splitting
from drdecr.evaluation.runs import read_run
from drdecr.indexing import open_searchable
from drdecr.retrieval import ShardedIndex, StoredIndex
from drdecr.retrieval.shard_manifest import ShardManifest, shard_folder
from drdecr.sharded_encoding import EncodingJob, ShardEncoder, encode_shards
from drdecr.stage import run_stage

LETTERS = "bcdefghijklm"
KILLED = Path(__file__).with_name("killed_encoding.py")


@pytest.fixture
def model(recipe_of):
    return str(run_stage(recipe_of("start", stage="initialise")))


@pytest.fixture
def documents(tmp_path):
    rows = [{"id": f"d#{a}", "text": f"the city {a} is in france. " * 5, "group": a in "bcd"} for a in LETTERS]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "q.tsv").write_text("".join(f"q-{a}\twhat is the city {a}\n" for a in LETTERS[:4]))
    return tmp_path / "d.jsonl"


@pytest.fixture
def job(model, documents, tmp_path):
    return EncodingJob(model, str(documents), tmp_path / "shards", 3, Splitting(overlap=3), batch_size=4)


@pytest.fixture
def searched(call, tmp_path):
    """`searched(folder, *options)` returns the TREC run of the questions."""

    def run(folder, *options):
        code, _, errors = call(
            "search", folder, "--queries", tmp_path / "q.tsv", "--run", tmp_path / "run", "--top-k", "5", *options
        )
        assert code == 0, errors
        return read_run(tmp_path / "run")

    return run


def same_run(ours, theirs):
    assert ours.keys() == theirs.keys()
    for query, own in theirs.items():
        assert ours[query] == pytest.approx(own, abs=2e-3)  # batches of other lengths, and half precision


def test_commands_take_shards_like_any_index(call, model, documents, tmp_path, searched):
    one, many = tmp_path / "one", tmp_path / "many"
    assert call("encode", model, documents, one)[0] == 0
    code, output, errors = call("encode", model, documents, many, "--shards", "3")
    assert code == 0, errors
    assert "12 new" in output
    assert "in 3 shards" in output
    same_run(searched(many), searched(one))
    assert "12 unchanged" in call("encode", model, documents, many)[1]
    # From many to other numbers and codes, and from one to many: always the same passages.
    for source, name, options in [
        (many, "again", ["--shards", "1"]),
        (many, "five", ["--shards", "5", "--codec", "int8"]),
        (one, "two", ["--shards", "2", "--compact"]),
    ]:
        code, output, errors = call("index", source, tmp_path / name, *options)
        assert code == 0, errors
        found, truth = searched(tmp_path / name), searched(one)
        assert {query: set(own) for query, own in found.items()} == {query: set(own) for query, own in truth.items()}
    assert len(StoredIndex.open(tmp_path / "again")) == len(StoredIndex.open(one))
    assert "2 segments and 2 shards" in call("index", tmp_path / "two")[1]
    passages = len(ShardedIndex.open(many))
    deleted = int(call("remove", many, "--where", "group=true")[1].split(": ")[1].split()[0])
    assert (deleted, len(ShardedIndex.open(many))) == (3 * passages // 12, 9 * passages // 12)
    for arguments, message in [
        (["encode", model, documents, many, "--shards", "2"], "made with shards 3, asked for 2"),
        (["encode", model, documents, one, "--workers", "2"], "which one worker writes"),
        (["encode", model, documents, tmp_path, "--shards", "2"], "expected a new or empty folder"),
        (["search", one, "a", "--workers", "2"], "which one worker searches"),
        (["index", many, "--shards", "2"], "Name its folder"),
    ]:
        code, _, errors = call(*arguments)
        assert (code, len(errors.strip().splitlines())) == (1, 1)
        assert message in errors


def test_no_more_files_are_open_than_those_of_one_shard(call, model, tmp_path, monkeypatch):
    """Each segment has two; all of 21 million passages are 20,000, where systems allow 1,024."""
    rows = [{"id": f"d{number}", "text": "the city is in france"} for number in range(64)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(encode, "PASSAGES_A_COMMIT", 1)
    call(
        "encode", model, tmp_path / "many.jsonl", tmp_path / "first", "--shards", "8"
    )  # what is opened once and for all
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 60, hard))
    try:
        for words in (["encode", model, tmp_path / "many.jsonl", tmp_path / "shards", "--shards", "8"],) * 2:
            code, output, errors = call(*words)
            assert (code, "64 passages in 8 shards" in output) == (0, True), errors
        code, output, errors = call("index", tmp_path / "shards", tmp_path / "small", "--codec", "int8")
        assert (code, "64 passages in 8 segments and 8 shards" in output) == (0, True), errors
        code, output, errors = call("index", tmp_path / "shards", "--compact")
        assert (code, "64 passages in 8 segments and 8 shards" in output) == (0, True), errors
        before = [path.read_bytes() for path in sorted((tmp_path / "shards").rglob("*.json"))]
        assert call("index", tmp_path / "shards", "--compact")[0] == 0
        assert before == [path.read_bytes() for path in sorted((tmp_path / "shards").rglob("*.json"))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_candidates_come_from_every_shard(call, model, documents, tmp_path, searched):
    pytest.importorskip("faiss")
    assert call("encode", model, documents, tmp_path / "many", "--shards", "3")[0] == 0
    made = call("index", tmp_path / "many", tmp_path / "small", "--codec", "residual4", "--muvera")
    assert made[0] == 0, made[2]
    exact = searched(tmp_path / "small")
    for by in ("centroids", "muvera"):
        same_run(searched(tmp_path / "small", "--by", by, "--num-candidates", "99"), exact)


def test_a_shard_without_documents_has_no_vectors_and_needs_none(call, model, documents, tmp_path, searched):
    pytest.importorskip("faiss")
    assert call("encode", model, documents, tmp_path / "many", "--shards", "24")[0] == 0
    assert any(not len(StoredIndex.open(path)) for path in (tmp_path / "many").glob("shard-*"))
    code, _, errors = call("index", tmp_path / "many", "--muvera")
    assert code == 0, errors
    same_run(searched(tmp_path / "many", "--by", "muvera", "--num-candidates", "99"), searched(tmp_path / "many"))


def test_a_kill_costs_the_shard_that_was_being_made(job, monkeypatch):
    real, made = ShardEncoder.encode, []

    def dying(self, number, show_progress_bar=None):
        if number == 2 and not made[3:]:
            raise KeyboardInterrupt
        return real(self, number, show_progress_bar)

    def counting(model, index, passages, *others, real=encode._commit):
        made.append(len(passages))
        return real(model, index, passages, *others)

    monkeypatch.setattr(encode, "_commit", counting)
    monkeypatch.setattr(sharded_encoding.ShardEncoder, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        encode_shards(job)
    with pytest.raises(ValueError, match="shard-00002: this shard is not made yet"):
        ShardedIndex.open(job.folder)
    manifests = [(shard_folder(job.folder, number) / "manifest.json").read_bytes() for number in range(2)]
    monkeypatch.setattr(sharded_encoding.ShardEncoder, "encode", real)
    counts = encode_shards(job)
    assert counts["unchanged"] + counts["new"] == 12
    assert len(made) == 3  # the first two were complete and not even opened
    assert [(shard_folder(job.folder, number) / "manifest.json").read_bytes() for number in range(2)] == manifests
    assert len({payload["document_id"] for payload in _payloads(job.folder)}) == 12


def test_an_update_of_shards_that_stops_leaves_each_document_as_it_was_or_as_it_is(
    job, documents, monkeypatch, breaking_off
):
    monkeypatch.setattr(encode, "PASSAGES_A_COMMIT", 1)
    rows = [json.loads(line) for line in documents.read_text().splitlines()]

    def held():
        """Return `{document: {passage: text}}` of all shards, collected or not."""
        found = {row["id"]: {} for row in rows}
        for number in range(job.num_shards):
            index = StoredIndex.open(shard_folder(job.folder, number))
            ids = index.passage_ids()
            for name, payload in zip(ids, index.payloads(ids), strict=True):
                found[payload["document_id"]][name] = payload["text"]
        return found

    encode_shards(job)
    old, long = held(), documents.read_text()
    assert all(len(passages) > 1 for passages in old.values())
    documents.write_text("".join(json.dumps({**row, "text": "the sea"}) + "\n" for row in rows))
    with breaking_off(StoredIndex, "commit", 1):
        encode_shards(job)
    found = held()
    changed = [name for name in old if found[name] != old[name]]
    assert len(changed) == 1
    assert all(found[name] == {f"{name}#0": "the sea"} for name in changed)
    documents.write_text(long)
    assert encode_shards(job)["changed"] == 1
    assert held() == old


def _payloads(folder):
    index = ShardedIndex.open(folder)
    return index.payloads(index.passage_ids())


def test_every_worker_says_its_model_once_before_anything_is_written(job, monkeypatch, tmp_path):
    digests, loads = [], []
    real, load = sharded_encoding.model_digest, measuring.load_reader
    monkeypatch.setattr(measuring, "load_reader", lambda name: loads.append(name) or load(name))
    monkeypatch.setattr(sharded_encoding, "model_digest", lambda model: digests.append(real(model)) or digests[-1])
    encode_shards(job)
    assert (len(digests), len(loads)) == (1, 1)  # for three shards
    shutil.copytree(job.model, tmp_path / "moved")
    shutil.rmtree(shard_folder(job.folder, 1))
    moved = replace(job, model=str(tmp_path / "moved"))
    counts = encode_shards(moved)
    assert (counts["new"] > 0, counts["new"] + counts["unchanged"]) == (True, 12)
    assert ShardedIndex.open(job.folder).about["model"] == job.model
    # Two workers, under the same name of a model two models.
    monkeypatch.setitem(sys.modules, "ray", stand_in())
    monkeypatch.setattr(ShardEncoder, "model_digest", lambda self: f"digest {len(digests.append(0) or digests)}")
    apart = replace(job, folder=tmp_path / "apart")
    with pytest.raises(ValueError, match=f"{job.model}: expected one model, got 2"):
        encode_shards(apart, workers=2)
    assert not apart.folder.exists()
    monkeypatch.setattr(ShardEncoder, "model_digest", lambda self: "trained on")
    with pytest.raises(ValueError, match="asked for 'trained on'"):
        encode_shards(job, workers=2)


def test_a_shard_is_not_written_by_itself(call, model, documents, tmp_path):
    assert call("encode", model, documents, tmp_path / "many", "--shards", "2")[0] == 0
    code, _, errors = call("encode", model, documents, tmp_path / "many" / "shard-00001")
    assert code == 1
    assert f"one of several shards, which get their documents together. Give {tmp_path / 'many'}." in errors
    assert "12 unchanged" in call("encode", model, documents, tmp_path / "many")[1]


@pytest.mark.slow
def test_launched_processes_share_the_shards(run_python, call, model, documents, tmp_path, searched):
    words = ["-m", "drdecr.encode", model, documents, tmp_path / "many"]
    done = run_python(*words, processes=2)
    assert "in 2 shards" in done.stdout
    assert call("encode", model, documents, tmp_path / "one")[0] == 0
    same_run(searched(tmp_path / "many"), searched(tmp_path / "one"))


@pytest.mark.processes
def test_launched_processes_of_which_one_was_killed_go_on_and_end_with_every_id_once(
    run_python, call, model, documents, tmp_path, searched
):
    words = [KILLED, model, documents, tmp_path / "many", 4]
    killed = run_python(*words, 2, processes=2, check=False)
    assert killed.returncode != 0
    assert "-9" in killed.stderr  # torchrun says who died, and of what
    assert not ShardManifest.read(tmp_path / "many").shards
    made = [path.parent for path in (tmp_path / "many").glob("shard-*/manifest.json")]
    before = [name for path in made for name in StoredIndex.open(path).passage_ids()]
    done = run_python(*words, 0, processes=2)
    assert call("encode", model, documents, tmp_path / "one")[0] == 0
    index, one = ShardedIndex.open(tmp_path / "many"), StoredIndex.open(tmp_path / "one")
    assert sorted(index.passage_ids()) == sorted(one.passage_ids())
    assert 0 < len(before) < len(one)
    assert f", {len(one) - len(before)} passages; {len(one)} passages in 4 shards" in done.stdout
    same_run(searched(tmp_path / "many"), searched(tmp_path / "one"))


class RayError(Exception):
    """Of any kind."""


class RayTaskError(RayError):
    """What a method of an actor raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("".join(traceback.format_exception(cause)))
        self.cause = cause


class RayActorError(RayError):
    """The actor is gone."""


class Reference:
    """An answer that is to come: it is made when it is asked for."""

    def __init__(self, actor: "Actor", method: str, arguments: bytes) -> None:
        self.actor, self.method, self.arguments = actor, method, arguments

    def result(self) -> Any:
        if self.actor.instance is None:
            raise RayActorError
        try:
            with contextlib.chdir(self.actor.folder):
                answer = getattr(self.actor.instance, self.method)(*pickle.loads(self.arguments))
        except Exception as error:  # noqa: BLE001  # whatever it is, it travels
            raise RayTaskError(error) from None
        return pickle.loads(pickle.dumps(answer))


class Actor:
    """A handle: `actor.method.remote(...)`; the actor begins in another folder than who started it."""

    def __init__(self, kind: type, arguments: bytes) -> None:
        with contextlib.chdir(os.sep):
            self.instance: Any = kind(*pickle.loads(arguments))
            self.folder = os.getcwd()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: Reference(self, method, pickle.dumps(arguments)))


def stand_in(cpus: int = 4) -> Any:
    """Return what `import ray` would, in one process; `started` lists the resources of each actor."""
    started: list[dict[str, Any]] = []

    def options(kind: type, given: dict[str, Any]) -> Any:
        started.append(given)
        return SimpleNamespace(remote=lambda *arguments: Actor(kind, pickle.dumps(arguments)))

    return SimpleNamespace(
        started=started,
        exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, RayActorError=RayActorError),
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": cpus},
        remote=lambda kind: SimpleNamespace(options=lambda **given: options(kind, given)),
        get=lambda reference: reference.result(),
        wait=lambda references, timeout: (references[-1:], references[:-1]),  # not the first that was asked
        kill=lambda actor: setattr(actor, "instance", None),
    )


def test_workers_share_the_shards_and_their_errors_are_told(job, call, documents, monkeypatch, tmp_path):
    """The calls of Ray's workers without Ray."""
    monkeypatch.chdir(tmp_path)
    ray = stand_in()
    monkeypatch.setitem(sys.modules, "ray", ray)
    relative = replace(job, folder=Path("shards"))
    assert encode_shards(relative, workers=2)["new"] == 12
    assert ray.started == [{"num_cpus": 2, "num_gpus": 0}] * 2
    assert encode_shards(relative, workers=9)["unchanged"] == 12
    index, local = open_searchable("shards", workers=2), ShardedIndex.open("shards")
    queries = list(torch.nn.functional.normalize(torch.randn(3, 4, 8), dim=-1))
    assert len(index) == len(local)
    for where in (None, {"group": True}):
        assert index.search(queries, 9, where) == local.search(queries, 9, where)
    assert index.payloads(local.passage_ids()) == local.payloads(local.passage_ids())
    with pytest.raises(ValueError, match="'nobody' is none of the"):
        index.payloads(["nobody"])
    index.shards._workers[1].instance = None
    with pytest.raises(RuntimeError, match="its worker is gone"):
        len(index)
    index.close()
    assert index.shards._workers == []
    with pytest.raises(ValueError, match="several search"):
        ShardedIndex.open("shards", writable=True, workers=2)
    lines = documents.read_text().splitlines(keepends=True)
    documents.write_text("".join(lines[4:]))
    assert encode_shards(relative, workers=2)["deleted"] == 0
    assert encode_shards(replace(relative, prune=True), workers=2)["deleted"] == 4
    documents.write_text("".join([*lines, lines[0]]))
    for arguments, message in [
        (["nowhere", documents, "other"], "nowhere"),
        ([job.model, documents, "shards", "--overlap", "3"], "stands twice"),
    ]:
        code, _, errors = call("encode", *arguments, "--workers", "2")
        assert code == 1
        assert message in errors.strip().splitlines()[-1]


def test_without_ray_the_extra_is_named(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"drdecr\[ray\]"):
        encode_shards(job, workers=2)


@pytest.fixture
def ray():
    """Ray, ended behind the test."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    yield ray
    ray.shutdown()


def test_workers_of_ray_encode_and_search_as_one_process_does(ray, call, model, documents, tmp_path, searched):
    one, many = tmp_path / "one", tmp_path / "many"
    assert call("encode", model, documents, one)[0] == 0
    code, output, errors = call("encode", model, documents, many, "--workers", "2")
    assert code == 0, errors
    assert "12 new" in output
    assert "in 2 shards" in output
    same_run(searched(many), searched(one))
    code, _, errors = call("encode", "nowhere", documents, tmp_path / "other", "--workers", "2")
    assert (code, len(errors.strip().splitlines())) == (1, 1)  # what a worker refuses is one line, as without it
    assert "nowhere" in errors
    index, queries = open_searchable(many, workers=2), torch.nn.functional.normalize(torch.randn(3, 4, 8), dim=-1)
    for where in (None, {"group": True}):
        hits, truth = (found.search(list(queries), 9, where) for found in (index, ShardedIndex.open(many)))
        assert hits == truth  # to the last bit
    with pytest.raises(ValueError, match="'nobody' is none of the"):
        index.payloads(["nobody"])
    pid = ray.get(index.shards._workers[0].__ray_call__.remote(lambda actor: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="its worker is gone"):
        index._all("__len__")
    index.close()
