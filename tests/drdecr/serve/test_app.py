"""The server answers as Python does, refuses what it must, and ends without losing a request."""

import html
import json
import random
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from fastapi.testclient import TestClient

from drdecr.data.teacher.translation_store import Translation
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import build_index, open_or_create_index, open_stored
from drdecr.retrieval.passages import Document, Splitter
from drdecr.retrieval.retriever import DirectRetriever, TranslateTestRetriever
from drdecr.serve.app import ServerSettings, create_app, make_server
from drdecr.serve.gate import TimedProtocol

TEXTS = ["the sea", "a river in a city", "what is paris", "the king of france"]


@pytest.fixture
def system(tmp_path, tiny_model):
    documents = [Document(f"d{n}", text, "", {"even": n % 2 == 0}) for n, text in enumerate(TEXTS)]
    with open_or_create_index(tmp_path / "index", 16, {"model": "tiny"}, "float16", 1) as opened:
        build_index(tiny_model, documents, opened, Splitter())
    return DirectRetriever(tiny_model, StoredIndex.open(tmp_path / "index"))


@pytest.fixture
def client(system):
    with TestClient(create_app(system), raise_server_exceptions=False) as client:
        yield client


def test_answers_are_those_of_the_system(client, system, tiny_model):
    answer = client.post("/search", json={"questions": ["the sea", "b"], "top_k": 2}).json()["results"]
    truth = system.search(["the sea", "b"], 2)
    assert [[one["document_id"] for one in own] for own in answer] == [
        [one.document_id for one in own] for own in truth
    ]
    assert answer[0][0]["text"] == truth[0][0].text
    filtered = client.post("/search", json={"questions": ["the sea"], "where": {"even": True}}).json()["results"][0]
    assert {one["document_id"] for one in filtered} == {"d0", "d2"}
    tokens = client.post("/encode", json={"texts": ["paris"], "kind": "document"}).json()["embeddings"][0]
    for given, kept in zip(tokens, tiny_model.encode_documents(["paris"])[0].tolist(), strict=True):
        assert given == pytest.approx(kept, abs=1e-5)
    reranked = client.post("/rerank", json={"question": "the sea", "passages": TEXTS}).json()
    scores = tiny_model.score(tiny_model.encode_queries(["the sea"]), tiny_model.encode_documents(TEXTS))[0].tolist()
    assert reranked["scores"] == pytest.approx(scores, abs=1e-5)
    assert reranked["order"] == sorted(range(4), key=lambda row: -scores[row])
    health = client.get("/health").json()
    assert (health["passages"], health["waiting"], health["refused"]) == (4, 0, 0)
    assert health["batches"] == {"1": 4}


class Sea:
    """`z` is the sea; other words stay. What has an `x` it cannot translate."""

    def translate(self, texts, source, target="en"):
        if any("x" in text for text in texts):
            raise TimeoutError("no answer")
        return [Translation(text.replace("z", "the sea")) for text in texts]


def test_two_steps_are_served_as_one_that_is_asked_in_english(client, system):
    with TestClient(create_app(TranslateTestRetriever(Sea(), system, "fi")), raise_server_exceptions=False) as two:
        for path, asked, english in [
            ("/search", {"questions": ["z", "paris"]}, {"questions": ["the sea", "paris"]}),
            ("/encode", {"texts": ["z"]}, {"texts": ["the sea"]}),
            ("/encode", {"texts": ["z"], "kind": "document"}, {"texts": ["z"], "kind": "document"}),
            (
                "/rerank",
                {"question": "z", "passages": ["z", *TEXTS]},
                {"question": "the sea", "passages": ["z", *TEXTS]},
            ),
        ]:
            answer = two.post(path, json=asked).json()
            assert answer.pop("searched_for", None) == (["the sea", "paris"] if path == "/search" else None)
            assert answer == client.post(path, json=english).json()
        assert two.get("/health").json() == client.get("/health").json()
        assert two.get("/openapi.json").json() == client.get("/openapi.json").json()


def test_a_translator_that_fails_is_told_to_its_own_asker_alone(system):
    with TestClient(create_app(TranslateTestRetriever(Sea(), system, "fi")), raise_server_exceptions=False) as client:
        described = client.get("/openapi.json").json()["paths"]
        for path, body in [
            ("/search", {"questions": ["z", "x"]}),
            ("/encode", {"texts": ["x"]}),
            ("/rerank", {"question": "x", "passages": ["z"]}),
        ]:
            answer = client.post(path, json=body)
            assert answer.status_code == 502
            assert "not translated (no answer). Ask again" in answer.json()["detail"]
            assert "502" in described[path]["post"]["responses"]
        assert client.post("/search", json={"questions": ["z"]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/search", {"questions": ["a"], "topk": 1}, 422),
        ("/encode", {"texts": ["a"], "type": "document"}, 422),
        ("/rerank", {"question": "a", "passages": ["b"], "top_k": 1}, 422),
        ("/search", {"questions": []}, 422),
        ("/search", {"questions": ["a"], "top_k": 0}, 422),
        ("/search", {"questions": ["a"], "top_k": 10_000}, 422),
        ("/search", {"questions": ["a"] * 65}, 422),
        ("/search", {"questions": ["a" * 20_001]}, 422),
        ("/search", {"questions": 5}, 422),
        ("/search", {"questions": ["a"] * 5, "top_k": 801}, 422),
        ("/search", {"questions": ["a"], "where": {f"k{n}": 0 for n in range(9)}}, 422),
        ("/search", {"questions": ["a"], "where": {"even": list(range(257))}}, 422),
        ("/search", {"questions": ["a"], "where": {"even": list(range(250)), "odd": list(range(7))}}, 422),
        ("/encode", {"texts": ["a" * 4_000] * 51}, 422),
        ("/rerank", {"question": "a", "passages": ["b" * 20_000] * 10}, 422),
        ("/encode", {"texts": ["a"], "kind": "image"}, 422),
        ("/rerank", {"question": "a", "passages": []}, 422),
        ("/nowhere", {}, 404),
    ],
)
def test_what_is_no_request_is_refused(client, path, body, status):
    assert client.post(path, json=body).status_code == status


def test_an_unknown_field_is_told_with_the_known_ones_and_one_text_needs_no_list(client):
    answer = client.post("/search", json={"query": "the sea"})
    assert "Expected the fields questions, top_k, where; got 'query'." in answer.json()["detail"][0]["msg"]
    alone, listed = (client.post("/search", json={"questions": form}).json() for form in ("the sea", ["the sea"]))
    assert alone == listed


def test_the_api_page_needs_no_other_host_and_its_examples_work(client):
    page = client.get("/")
    assert (page.history[0].status_code, page.status_code) == (307, 200)
    assert set(re.findall(r"https?://[^/\s\"<]+", page.text)) == {"http://testserver"}
    assert "<script" not in page.text
    bodies = [html.unescape(body) for body in re.findall(r"-d '(.*)'</pre>", page.text)]
    for path, body in zip(("/search", "/encode", "/rerank"), bodies, strict=True):
        assert client.post(path, json=json.loads(body)).status_code == 200


def test_a_translator_that_hangs_holds_up_nobody_else(system):
    class Hanging:
        released = threading.Event()

        def translate(self, texts, source, target="en"):
            self.released.wait(20)
            return [Translation(text) for text in texts]

    settings = ServerSettings(translation_seconds=0.3)
    with TestClient(create_app(TranslateTestRetriever(Hanging(), system, "fi"), settings)) as client:
        with ThreadPoolExecutor(2) as pool:
            stuck = [pool.submit(client.post, "/search", json={"questions": ["z"]}) for _ in range(2)]
            begin = time.monotonic()
            assert client.post("/encode", json={"texts": ["z"], "kind": "document"}).status_code == 200
            assert time.monotonic() - begin < 0.25
            assert [one.result().status_code for one in stuck] == [504, 504]
        Hanging.released.set()


@pytest.mark.parametrize(
    "body",
    [
        b'{"questions": [NaN]}',
        b'{"questions": ["a"], "top_k": Infinity}',
        b'{"questions": ["a"], "top_k": "\\ud800"}',
        b'{"questions": ["a"], "\\ud800": 1}',
        b"\xff\xfe\x00",
    ],
)
def test_what_is_wrong_is_told_in_json_whatever_came(client, body):
    for kind in ("application/json", "text/plain"):
        answer = client.post("/search", content=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 422)
        told = answer.json()["detail"]
        assert told == "There was an error parsing the body" or {"type", "loc", "msg"} == set(told[0])


def test_half_a_surrogate_pair_is_read_as_a_question_mark(client):
    for path, body in [
        ("/search", '{"questions": ["sea %s"]}'),
        ("/encode", '{"texts": ["sea %s"]}'),
        ("/rerank", '{"question": "sea %s", "passages": ["%s"]}'),
    ]:
        kind = {"Content-Type": "application/json"}
        half, mark = (client.post(path, content=body.replace("%s", s), headers=kind) for s in ("\\ud800", "?"))
        assert half.status_code == 200
        assert half.json() == mark.json()


def test_a_title_that_is_none_is_empty(tiny_model, system, client, tmp_path):
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        index.add(["bare"], tiny_model.encode_documents(["a king"]), [{"title": None, "text": None, "of": None}])
        index.commit()
    (own,) = client.post("/search", json={"questions": ["a"]}).json()["results"]
    found = {one["document_id"]: one for one in own}["bare"]
    assert (found["title"], found["text"], found["metadata"]) == ("", "", {"of": None})


@pytest.mark.parametrize("steps", [1, 2])
def test_a_running_server_finds_what_was_encoded_since(system, tiny_model, tmp_path, steps):
    folder = tmp_path / "index"
    served = TranslateTestRetriever(Sea(), system, "fi") if steps == 2 else system
    with TestClient(create_app(served)) as client:

        def found():
            (documents,) = client.post("/search", json={"questions": ["a king"], "top_k": 9}).json()["results"]
            assert client.get("/health").json()["passages"] == len(documents)
            return {one["document_id"] for one in documents}

        there = found()
        with open_stored(folder, writable=True) as index:
            index.add(["e", "f", "g"], tiny_model.encode_documents(TEXTS[:3]))
            assert found() == there
            index.commit()
        assert found() == there | {"e", "f", "g"}
        with open_stored(folder, writable=True) as index:
            index.delete(["f", "g"])
            index.commit()
        assert found() == there | {"e"}


def test_no_request_fails_while_others_commit_delete_and_compact(system, tiny_model, tmp_path):
    folder, done, statuses = tmp_path / "index", threading.Event(), []
    with TestClient(create_app(system), raise_server_exceptions=False) as client:

        def ask():
            while not done.is_set():
                statuses.append(client.post("/search", json={"questions": ["the sea"], "top_k": 9}).status_code)

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask) for _ in range(2)]
            with StoredIndex.open(folder, writable=True) as index:
                for number in range(15):
                    index.add([f"n{number}"], tiny_model.encode_documents(["a river"]), [{"text": "a river"}])
                    index.delete([f"n{number - 2}"])
                    index.commit()
                    if number % 5 == 4:
                        index.compact()
            done.set()
            for one in asking:
                one.result()
        found = client.post("/search", json={"questions": ["the sea"], "top_k": 9}).json()["results"][0]
        assert {one["document_id"] for one in found} == {"d0", "d1", "d2", "d3", "n13", "n14"}
    assert set(statuses) == {200}
    assert len(statuses) > 5


def test_a_server_goes_on_with_what_it_has_where_it_cannot_follow(client, tiny_model, tmp_path, caplog):
    folder = tmp_path / "index"
    question = {"questions": ["the sea"], "top_k": 9}
    before = client.post("/search", json=question).json()
    whole = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(whole[:-9])
    assert client.post("/search", json=question).json() == before
    assert client.post("/search", json=question).json() == before
    assert [record.message.count("damaged") for record in caplog.records if record.name == "drdecr.serve.requests"] == [
        1
    ]
    shutil.rmtree(folder)
    assert client.post("/search", json=question).json() == before
    with open_or_create_index(folder, 16, {"model": "another"}, "float16", 1) as opened:
        build_index(tiny_model, [Document("new", "the sea", "", {})], opened, Splitter())
    assert client.post("/search", json=question).json() == before
    assert "holds another index now (model 'another', asked for 'tiny')" in caplog.text


def test_filters_take_every_number_that_metadata_holds(system, tiny_model, tmp_path):
    with StoredIndex.open(tmp_path / "index", writable=True) as index:
        index.add(["half"], tiny_model.encode_documents(["a half"]), [{"score": 1.5}])
        index.add(["one"], tiny_model.encode_documents(["a one"]), [{"score": 1}])
        index.commit()
    with TestClient(create_app(system)) as client:
        for wanted, names in [(1.5, {"half"}), ([1.5, 2.5], {"half"}), (1, {"one"}), ("1.5", set()), (True, set())]:
            body = {"questions": ["a"], "where": {"score": wanted}}
            assert {one["document_id"] for one in client.post("/search", json=body).json()["results"][0]} == names


def test_bodies_are_limited_before_they_are_read(system):
    with TestClient(create_app(system, ServerSettings(max_body_bytes=100))) as client:
        assert client.post("/search", content=b"x" * 101).status_code == 413
        assert client.post("/search", content=iter([b"x"])).status_code == 411
        assert client.post("/search", json={"questions": ["a"]}).status_code == 200
        described = client.get("/openapi.json").json()["paths"]
        assert all(
            {"411", "413"} <= set(described[path]["post"]["responses"]) for path in ("/search", "/encode", "/rerank")
        )


def test_a_key_is_asked_for_everywhere_but_for_health(system):
    with TestClient(create_app(system, ServerSettings(api_key="sécret"))) as client:
        for path, body in [("/search", {"questions": ["a"]}), ("/encode", {"texts": ["a"]})]:
            assert client.post(path, json=body).status_code == 401
            assert client.post(path, json=body, headers={"X-API-Key": "secret"}).status_code == 401
            assert client.post(path, json=body, headers={"X-API-Key": "sécret".encode()}).status_code == 200
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("key", ["", " ", " key", "key\n", "k\ney"])
def test_a_key_that_lets_everybody_in_or_nobody_is_refused(key):
    with pytest.raises(ValueError, match="--api-key"):
        ServerSettings(api_key=key)


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("127.0.0.1", None, 0), ("::1", None, 0), ("localhost", None, 0), ("0.0.0.0", "key", 0), ("0.0.0.0", None, 1)],
)
def test_a_server_that_others_reach_without_a_key_says_so(system, caplog, host, key, warned):
    make_server(system, ServerSettings(api_key=key), host, 8000)
    assert caplog.text.count("no key is needed") == warned


def odd_value(schema, schemas, chance):
    """Draw a value that follows an OpenAPI schema, or, now and then, one that does not."""
    if chance.random() < 0.08:
        return chance.choice([None, -1, 1e308, "", [], {}, True, "\ud800"])
    if "$ref" in schema:
        return odd_value(schemas[schema["$ref"].rpartition("/")[2]], schemas, chance)
    if "anyOf" in schema:
        return odd_value(chance.choice(schema["anyOf"]), schemas, chance)
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return {
            name: odd_value(own, schemas, chance) for name, own in schema["properties"].items() if chance.random() < 0.9
        }
    if kind == "object":
        inner = schema.get("additionalProperties")
        return {
            chance.choice(["even", "x", "\x00"]): odd_value(inner if isinstance(inner, dict) else {}, schemas, chance)
        }
    if kind == "array":
        return [odd_value(schema["items"], schemas, chance) for _ in range(chance.randrange(4))]
    if kind == "string":
        odd = ["the sea", "", " ", "\x00\x07", "🏴‍☠️", "שלום", "\udfff", "a" * 3000, "query"]
        return chance.choice(["query", "document"]) if "pattern" in schema else chance.choice(odd)
    return {"integer": chance.randrange(1, 20), "boolean": True, "null": None}.get(kind, 1)


def test_requests_drawn_from_its_own_description_never_break_it(client):
    described = client.get("/openapi.json").json()
    chance, seen = random.Random(0), set()
    for _ in range(150):
        path = chance.choice(["/search", "/encode", "/rerank"])
        operation = described["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = json.dumps(odd_value(schema, described["components"]["schemas"], chance))
        answer = client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
        assert str(answer.status_code) in operation["responses"], (path, body, answer.text)
        seen.add(answer.status_code)
    assert {200, 422} <= seen


def test_a_system_that_answers_too_little_is_told_and_the_server_goes_on(system):
    class Forgetful(DirectRetriever):
        def search(self, questions, top_k=10, where=None):
            return super().search([one for one in questions if one != "b"], top_k, where)

    forgetful = create_app(Forgetful(system.model, system.index))
    with TestClient(forgetful, raise_server_exceptions=False) as client:
        assert client.post("/search", json={"questions": ["a", "b"]}).status_code == 500
        assert client.post("/search", json={"questions": ["a"]}).status_code == 200


def test_an_overfull_server_says_when_to_come_back(system):
    with TestClient(create_app(system, ServerSettings(max_waiting=0)), raise_server_exceptions=False) as client:
        answer = client.post("/search", json={"questions": ["a"]})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert client.get("/health").json()["refused"] == 1


@contextmanager
def running(retriever, settings=None):
    """Serve on a free port of this machine; gives the server, its port and its thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = make_server(retriever, settings or ServerSettings(), "127.0.0.1", port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server, port, thread
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def exchange(port, *parts, pause=0.05):
    """Send bytes, part by part, and return all that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def head(*lines, path="/search"):
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def test_requests_are_refused_by_their_head(system, capfd):
    body = b'{"questions": ["a"]}'
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with running(system, ServerSettings(api_key="key", max_body_bytes=1000)) as (_, port, _):
        key, json_type = "X-API-Key: key", "Content-Type: application/json"
        for status, sent in [
            (200, [head(key, f"Content-Length: {len(body)}", json_type, "Connection: close"), body]),
            (400, [head(key, "Content-Length: 5", "Transfer-Encoding: chunked"), chunks]),
            (400, [head(key, "Transfer-Encoding: chunked", "Content-Length: 5"), chunks]),
            (411, [head(key, "Transfer-Encoding: chunked"), chunks]),
            (411, [head(key, "Transfer-Encoding: chunked"), b"no chunk at all\r\n" * 50]),
            (400, [head(key, "Transfer-Encoding: chunked") + b"no chunk at all\r\n" * 50]),
            (413, [head(key, "Content-Length: 1001"), b"x" * 1001]),
            (401, [head("Content-Length: 900000000"), b"x"]),  # nothing is read for who has no key
            (401, [head("X-API-Key: kez", "Content-Length: 5"), b"hello"]),
            (400, [head(key, "Content-Length: 20").replace(b"localhost", b"evil.example"), body]),
            (400, [head(key, "Content-Length: 20").replace(b"localhost", b"127.0.0.1.evil.example:80"), body]),
        ]:
            assert exchange(port, *sent).startswith(b"HTTP/1.1 %d " % status), (status, sent)
        for path, status in [("/health", 200), ("/docs", 401), ("/openapi.json", 401), ("/", 401)]:
            assert httpx.get(f"http://127.0.0.1:{port}{path}").status_code == status
        assert httpx.get(f"http://localhost:{port}/health").status_code == 200
    log = capfd.readouterr().err
    assert "Invalid HTTP request" in log
    assert "Traceback" not in log


def test_slow_requests_are_ended(system, monkeypatch):
    monkeypatch.setattr(TimedProtocol, "head_seconds", 0.4)
    with running(system, ServerSettings(request_seconds=0.4)) as (_, port, _):
        for sent, answer in [
            ([b"P"], b""),  # a head that never ends
            ([b"POST /search HTTP/1.1\r\nHost:", b" local", b"host\r\n"], b""),
            ([head("Content-Length: 20"), b'{"ques'], b"HTTP/1.1 408 "),
        ]:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                begin = time.monotonic()
                for part in sent:
                    connection.sendall(part)
                    time.sleep(0.05)
                assert connection.recv(65536).startswith(answer)
                assert 0.2 < time.monotonic() - begin < 5
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:  # a connection that is used again is not slow
            for _ in range(3):
                assert client.post("/search", json={"questions": ["a"]}).status_code == 200
                time.sleep(0.25)


class SlowSystem(DirectRetriever):
    """Answers when it is allowed to."""

    def __init__(self, system):
        super().__init__(system.model, system.index)
        self.asked, self.allowed, self.questions = threading.Event(), threading.Event(), []

    def search(self, questions, *arguments, **options):
        self.questions += questions
        self.asked.set()
        self.allowed.wait(20)
        return super().search(questions, *arguments, **options)


def test_work_for_a_sender_who_has_left_is_not_begun(system):
    slow = SlowSystem(system)
    with running(slow, ServerSettings(max_batch=1)) as (_, port, _):
        url = f"http://127.0.0.1:{port}/search"
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(httpx.post, url, json={"questions": ["first"]}, timeout=60)
            assert slow.asked.wait(20)
            body = json.dumps({"questions": ["left"]}).encode()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head(f"Content-Length: {len(body)}", "Content-Type: application/json") + body)
                time.sleep(0.2)
            time.sleep(0.2)
            slow.allowed.set()
            assert first.result().status_code == 200
        assert httpx.post(url, json={"questions": ["last"]}).status_code == 200
    assert slow.questions == ["first", "last"]


def test_a_server_that_is_told_to_end_answers_what_was_asked_and_nothing_more(system):
    slow = SlowSystem(system)
    with running(slow) as (server, port, thread), ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{port}/search"
        answer = pool.submit(httpx.post, url, json={"questions": ["the sea"], "top_k": 1}, timeout=60)
        assert slow.asked.wait(20)
        server.should_exit = True  # what uvicorn's handler of SIGTERM does
        time.sleep(0.3)
        slow.allowed.set()
        assert answer.result().json()["results"][0][0]["document_id"]
        thread.join(20)
        with pytest.raises(httpx.ConnectError):
            httpx.post(url, json={"questions": ["the sea"]})
