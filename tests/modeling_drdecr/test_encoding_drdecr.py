"""Encoding many texts: the order of the input, whatever the batches; packing and padding."""

import threading

import pytest
import torch

from drdecr.modeling_drdecr import DrDecrModel, encoding_drdecr, pack_embeddings, pad_embeddings

TEXTS = ["paris", "", "what is the capital of france ?", "the sea .", "a king , a city , a river", "paris"]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("expansion", ["none", "mask"])
@pytest.mark.parametrize("tokens_a_pass", [1, 20, 1024])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_texts_keep_their_order_and_equal_a_forward_pass_of_each_alone(
    tiny_model, tiny_processor, batch_size, tokens_a_pass, expansion, threads, monkeypatch, use_threads
):
    use_threads(threads)
    monkeypatch.setattr(encoding_drdecr, "CPU_TOKENS_PER_PASS", tokens_a_pass)
    monkeypatch.setattr(tiny_processor, "query_expansion", expansion)
    for encode, process in (
        (tiny_model.encode_queries, tiny_processor.process_queries),
        (tiny_model.encode_documents, tiny_processor.process_documents),
    ):
        encoded = encode(TEXTS, batch_size=batch_size)
        assert len(encoded) == len(TEXTS)
        for text, tokens in zip(TEXTS, encoded, strict=True):
            batch = process([text])
            with torch.no_grad():
                expected = tiny_model(batch["input_ids"], batch["attention_mask"]).embeddings[batch["scoring_mask"]]
            torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


@pytest.fixture
def shapes(monkeypatch):
    """Return the shapes of forward passes, as they are made."""
    seen, forward = [], DrDecrModel.forward
    monkeypatch.setattr(
        DrDecrModel,
        "forward",
        lambda self, *a, **k: seen.append(tuple(k["input_ids"].shape)) or forward(self, *a, **k),
    )
    return seen


def test_batches_hold_texts_of_like_length(tiny_model, shapes):
    tiny_model.encode_documents(["a", "a a a a a a", "a", "a a a a a a"], batch_size=2)
    assert shapes == [(2, 9), (2, 4)]


def test_a_cpu_reads_a_batch_in_passes_that_its_cache_holds(tiny_model, shapes, monkeypatch):
    monkeypatch.setattr(encoding_drdecr, "CPU_TOKENS_PER_PASS", 20)
    tiny_model.encode_documents(["a a a a a a", *["a"] * 4], batch_size=5)
    assert shapes == [(2, 9), (2, 4), (1, 4)]  # each is as wide as its own longest text


@pytest.fixture
def seen(monkeypatch):
    """Return who runs the forward passes, as they are made: thread, torch's threads, gradients, autocast."""
    found, forward = [], DrDecrModel.forward

    def record(self, *arguments, **options):
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        name = threading.current_thread().name
        found.append((name, torch.get_num_threads(), torch.is_grad_enabled(), autocast))
        return forward(self, *arguments, **options)

    monkeypatch.setattr(DrDecrModel, "forward", record)
    return found


def threads_of_a_new_thread() -> int:
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("is_cast", [True, False])
def test_each_thread_has_a_pass_of_its_own_in_the_callers_precision(tiny_model, seen, use_threads, is_cast):
    use_threads(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
        tiny_model.encode_documents(TEXTS, batch_size=1)
    assert len(seen) == len(TEXTS)
    assert {name.split("_")[0] for name, *_ in seen} == {"drdecr"}
    assert {settings[1:] for settings in seen} == {(1, False, is_cast and torch.bfloat16)}
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_fewer_passes_than_threads_have_all_threads_one_after_another(tiny_model, seen, use_threads):
    use_threads(3)
    tiny_model.encode_documents(TEXTS, batch_size=3)
    assert seen == [(threading.current_thread().name, 3, False, False)] * 2


def test_a_pass_that_fails_in_its_thread_is_the_callers_error(tiny_model, use_threads, monkeypatch):
    def fail(self, input_ids, **_):
        raise RuntimeError(f"no memory for {input_ids.shape[1]} tokens")

    use_threads(2)
    tiny_model.train()
    monkeypatch.setattr(DrDecrModel, "forward", fail)
    with pytest.raises(RuntimeError, match="no memory for 10 tokens"):
        tiny_model.encode_queries(TEXTS, batch_size=1)
    assert tiny_model.training
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2


def test_no_texts_give_no_embeddings(tiny_model):
    assert tiny_model.encode_queries([]) == []
    assert tiny_model.encode_documents([]) == []


def test_any_iterable_of_strings_is_encoded(tiny_model):
    as_list = tiny_model.encode_queries(["paris", "the sea"])
    for texts in (("paris", "the sea"), (text for text in ("paris", "the sea"))):
        assert all(map(torch.equal, tiny_model.encode_queries(texts), as_list))


@pytest.mark.parametrize(
    ("texts", "came"),
    [("paris", "got str"), (None, "got NoneType"), (7, "got int"), (["paris", None], "a list with None")],
)
def test_what_is_no_list_of_strings_is_refused(tiny_model, texts, came):
    with pytest.raises(
        ValueError, match=f"Expected a list of strings to encode, {came if 'got' in came else '.*' + came}"
    ):
        tiny_model.encode_queries(texts)


def test_an_impossible_batch_size_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"batch_size: expected at least 1, got 0\. The default is 32"):
        tiny_model.encode_queries(["paris"], batch_size=0)


def test_a_model_without_a_processor_says_where_to_get_one(tiny_model):
    tiny_model.processor = None
    with pytest.raises(ValueError, match=r"no processor.*model\.processor = DrDecrProcessor\(tokenizer\)"):
        tiny_model.encode_queries(["paris"])


@pytest.mark.parametrize("training", [True, False])
def test_encoding_is_without_dropout_and_leaves_the_mode_as_it_was(tiny_model, training):
    tiny_model.train(training)
    first, second = tiny_model.encode_queries(["paris"]), tiny_model.encode_queries(["paris"])
    assert torch.equal(first[0], second[0])
    assert tiny_model.training is training
    with pytest.raises(ValueError, match="list"):
        tiny_model.encode_queries("paris")
    assert tiny_model.training is training


def test_the_mode_is_restored_after_an_error(tiny_model, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    tiny_model.train()
    monkeypatch.setattr(DrDecrModel, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        tiny_model.encode_queries(["paris"])
    assert tiny_model.training


def test_embeddings_are_float32_on_the_cpu_without_gradient_or_batch_behind_them(tiny_model):
    for tokens in tiny_model.to(torch.bfloat16).encode_documents(TEXTS):
        assert (tokens.dtype, tokens.device.type, tokens.requires_grad) == (torch.float32, "cpu", False)
        assert tokens.untyped_storage().nbytes() == tokens.nbytes


def test_the_bar_is_drawn_when_asked_for(tiny_model, capsys):
    tiny_model.encode_queries(["paris"], show_progress_bar=True)
    assert "encoding" in capsys.readouterr().err
    tiny_model.encode_queries(TEXTS, batch_size=2, show_progress_bar=False)
    tiny_model.encode_queries(TEXTS, batch_size=2)  # not a terminal
    assert "encoding" not in capsys.readouterr().err


def test_the_models_score_is_maxsim_of_what_it_encoded(tiny_model):
    queries, documents = tiny_model.encode_queries(TEXTS), tiny_model.encode_documents(TEXTS)
    expected = [[(query @ document.T).max(dim=1).values.sum() for document in documents] for query in queries]
    torch.testing.assert_close(tiny_model.score(queries, documents), torch.tensor(expected), atol=1e-5, rtol=0)


def ragged() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(length, 4) for length in (3, 0, 5, 1)]


def test_packed_texts_come_out_as_they_went_in():
    texts = ragged()
    packed = pack_embeddings(texts)
    assert packed.embeddings.shape == (9, 4)
    assert packed.offsets.tolist() == [0, 3, 3, 8, 9]
    assert len(packed) == 4
    assert all(map(torch.equal, packed, texts))
    assert torch.equal(packed[-2], texts[2])
    with pytest.raises(IndexError, match="text 4 of 4"):
        packed[4]


def test_padded_texts_come_out_as_they_went_in():
    texts = ragged()
    padded, mask = pad_embeddings(texts)
    assert padded.shape == (4, 5, 4)
    assert mask.tolist() == [[position < len(text) for position in range(5)] for text in texts]
    assert all(torch.equal(row[counts], text) for row, counts, text in zip(padded, mask, texts, strict=True))


def test_only_empty_texts_pad_to_no_tokens():
    padded, mask = pad_embeddings([torch.empty(0, 4), torch.empty(0, 4)])
    assert padded.shape == (2, 0, 4)
    assert mask.shape == (2, 0)


@pytest.mark.parametrize("function", [pack_embeddings, pad_embeddings])
def test_nothing_to_pack_or_pad_is_refused(function):
    with pytest.raises(ValueError, match=r"expects at least one text, got none\. Encode some texts first"):
        function([])
