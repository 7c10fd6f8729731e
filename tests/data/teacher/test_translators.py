"""Translation: models read off plain loops, a stand-in for Apertium's program, what is kept, and what is filtered."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Tokenizer,
    MarianTokenizer,
    NllbTokenizer,
)

from drdecr.data.languages import spellings
from drdecr.data.teacher.apertium import ApertiumTranslator
from drdecr.data.teacher.translation_filters import TranslationFilters, accept_translations, round_trip
from drdecr.data.teacher.translation_store import Engine, StoredTranslator, Translation, translate_questions
from drdecr.data.teacher.translators import ChatTranslator, Seq2SeqTranslator

TEXTS = ["where is the king ?", "the sea", "", "what is the capital city of france ?"]


class Echo:
    """Translates by adding the target's name, counts what it is asked, and dies when it is told to."""

    def __init__(self, name: str = "echo", dies_after: int | None = None) -> None:
        self.engine, self.asked, self.dies_after = Engine(name, "1"), [], dies_after

    def translate(self, texts, source, target="en"):
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += texts
        return [Translation(f"{text} ({target})", len(text) / 10) for text in texts]


@pytest.fixture
def seq2seq(tmp_path, tiny_tokenizer) -> tuple[BartForConditionalGeneration, str]:
    torch.manual_seed(3)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=64, max_position_embeddings=64, **sizes, **heads, **tokens, forced_eos_token_id=None)
    model = BartForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "seq2seq")
    tiny_tokenizer.save_pretrained(tmp_path / "seq2seq")
    return model, str(tmp_path / "seq2seq")


@pytest.fixture
def chat(tmp_path, tiny_tokenizer) -> tuple[LlamaForCausalLM, str]:
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(
        vocab_size=64, max_position_embeddings=64, pad_token_id=1, eos_token_id=2, bos_token_id=0, **sizes
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "chat")
    tiny_tokenizer.chat_template = "{% for m in messages %}[Q] {{ m['content'] }} [D]{% endfor %}"
    tiny_tokenizer.save_pretrained(tmp_path / "chat")
    return model, str(tmp_path / "chat")


@torch.no_grad()
def greedy(step, most: int) -> tuple[list[int], float]:
    """Token after token, the likeliest, until the end; and the mean of their log-probabilities."""
    tokens: list[int] = []
    total = 0.0
    while len(tokens) < most and tokens[-1:] != [2]:
        chances = step(tokens).log_softmax(dim=-1)
        tokens.append(int(chances.argmax()))
        total += float(chances.max())
    return tokens, total / len(tokens)


def test_a_sequence_model_translates_each_text_as_if_it_were_alone(seq2seq, tiny_tokenizer):
    model, folder = seq2seq
    translator = Seq2SeqTranslator(folder, num_beams=1, max_new_tokens=7, batch_size=3)
    found = translator.translate(TEXTS, "fi")
    assert found[2] == Translation("", 0.0)
    for text, translation in zip(TEXTS, found, strict=True):
        if not text:
            continue
        words = tiny_tokenizer(text, return_tensors="pt")
        tokens, score = greedy(
            lambda done, words=words: model(**words, decoder_input_ids=torch.tensor([[2, *done]])).logits[0, -1], 7
        )
        assert translation.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert translation.score == pytest.approx(score, abs=1e-4)
    assert translator.engine.parameters["num_beams"] == 1
    assert translator.engine.key != Seq2SeqTranslator(folder, num_beams=2).engine.key


def test_a_text_that_is_longer_than_the_model_reads_says_that_it_was_cut(seq2seq, tiny_tokenizer, tmp_path):
    tiny_tokenizer.model_max_length = 6  # two of them begin and end the text
    tiny_tokenizer.save_pretrained(seq2seq[1])
    translator = StoredTranslator(
        Seq2SeqTranslator(seq2seq[1], num_beams=1, max_new_tokens=3, batch_size=3), tmp_path / "kept.sqlite3"
    )
    texts = ["b c d e", "b c d e f", "b", "b c d e z z"]
    for _ in range(2):  # made, and then kept
        assert [found.is_cut for found in translator.translate(texts, "fi")] == [False, True, False, True]


def test_a_chat_model_is_asked_through_its_template(chat, tiny_tokenizer):
    model, folder = chat
    translator = ChatTranslator(folder, prompt="{source} {target} : {text}", max_new_tokens=6, batch_size=4)
    for text, translation in zip(TEXTS, translator.translate(TEXTS, "es"), strict=True):
        if not text:
            continue
        asked = f"[Q] Spanish English : {text} [D]"
        words = tiny_tokenizer(asked, add_special_tokens=False)["input_ids"]
        tokens, score = greedy(lambda done, words=words: model(torch.tensor([words + done])).logits[0, -1], 6)
        assert translation.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert translation.score == pytest.approx(score, abs=1e-4)


def test_a_model_without_a_chat_template_is_refused(seq2seq):
    with pytest.raises(ValueError, match="got a tokenizer without a chat template"):
        ChatTranslator(seq2seq[1])


def told(tokenizer, source: str, target: str, **settings):
    """What a model with this tokenizer is told of the languages."""
    translator = Seq2SeqTranslator.__new__(Seq2SeqTranslator)
    translator.tokenizer, translator.codes, translator.prompt = tokenizer, {}, ""
    translator._engine = Engine("model", "1")
    for name, value in settings.items():
        setattr(translator, name, value)
    return translator._told(source, target)


def test_nllb_is_told_flores_codes():
    tokenizer = NllbTokenizer()
    assert told(tokenizer, "ar", "en") == ("", tokenizer.convert_tokens_to_ids("eng_Latn"))
    assert tokenizer.src_lang == "arb_Arab"
    told(tokenizer, "bem", "zh", codes={"bem": "bem_Latn"})
    assert tokenizer.src_lang == "bem_Latn"
    with pytest.raises(ValueError, match=r"expected a language that the model knows, got 'xx'"):
        told(tokenizer, "xx", "en")


def test_m2m_and_opus_mt_are_told_in_their_own_ways(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"where is the king number {number} of the city" for number in range(50)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(tmp_path / "spm"), vocab_size=35, minloglevel=2
    )
    model = str(tmp_path / "spm.model")
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}))
    tokenizer = M2M100Tokenizer(str(tmp_path / "vocab.json"), model)
    assert told(tokenizer, "es", "en") == ("", tokenizer.get_lang_id("en"))
    assert tokenizer.src_lang == "es"

    def marian(words: list[str], **languages: str) -> MarianTokenizer:
        vocabulary = {word: index for index, word in enumerate(["</s>", "<unk>", "<pad>", *words])}
        (tmp_path / "marian.json").write_text(json.dumps(vocabulary))
        return MarianTokenizer(model, model, str(tmp_path / "marian.json"), **languages)

    many = marian([">>spa<<", ">>cat<<"])
    assert told(many, "en", "es") == (">>spa<< ", None)
    with pytest.raises(ValueError, match="got 'fi'"):
        told(many, "en", "fi")
    pair = marian(["the"], source_lang="es", target_lang="en")
    assert told(pair, "es", "en") == ("", None)
    with pytest.raises(ValueError, match=r"expected 'es' as its source_lang, got 'fi'"):
        told(pair, "fi", "en")


def test_a_model_that_is_told_in_words_is(seq2seq, tiny_tokenizer):
    assert told(tiny_tokenizer, "es", "fi", prompt="translate {source} to {target}: ") == (
        "translate Spanish to Finnish: ",
        None,
    )
    assert told(tiny_tokenizer, "es", "fi", prompt="<2{target_code}> ") == ("<2fi> ", None)


@pytest.fixture
def apertium(tmp_path, monkeypatch) -> Path:
    """A program that stands in for Apertium's: one pair, words in capitals, a mark before those of the letter x."""
    program = tmp_path / "bin" / "apertium"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in -l) echo "  spa-eng";; -V) echo "Apertium 9.9";;\n'
        "  *) tr a-z A-Z | sed -E 's/(^| )(X)/\\1*\\2/g';; esac\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_apertiums_unknown_words_lose_their_star_and_cost_score(apertium):
    translator = ApertiumTranslator()
    found = translator.translate(["el *rey\nes xavier", "", "2 * 3"], "es")
    assert found == [Translation("EL REY ES XAVIER", 0.75), Translation("", 0.0), Translation("2 * 3", 1.0)]
    assert ApertiumTranslator(keep_unknown=False).translate(["el xavier"], "es")[0].text == "EL"
    assert (translator.engine.name, translator.engine.revision) == ("apertium", "9.9")
    with pytest.raises(ValueError, match=r"expected a pair that is installed \(spa-eng\), got fi to en"):
        translator.translate(["a"], "fi")


def test_apertium_that_takes_too_long_says_so_in_one_line(apertium):
    translator = ApertiumTranslator(timeout=0.1)
    apertium.write_text("#!/bin/sh\nexec sleep 5\n")
    with pytest.raises(RuntimeError, match=r"spa-eng took more than 0\.1 s\. Try fewer"):
        translator.translate(["el rey"], "es")


def test_apertium_without_a_pair_says_that_none_is_installed(apertium):
    apertium.write_text("#!/bin/sh\necho '  *'\n")
    with pytest.raises(ValueError, match=r"expected a pair that is installed \(none is\), got fi to en\. Install"):
        ApertiumTranslator().translate(["a"], "fi")


def test_a_refused_language_leaves_no_store(apertium, tmp_path):
    store = StoredTranslator(ApertiumTranslator(), tmp_path / "kept" / "store.sqlite3")
    with pytest.raises(ValueError, match="got fi to en"):
        store.translate(["a"], "fi")
    assert not (tmp_path / "kept").exists()
    store.translate(["a"], "es")
    assert store.file.exists()


def test_a_missing_program_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImportError, match="apt-get install apertium"):
        ApertiumTranslator()


def test_questions_of_several_languages_come_back_in_their_order():
    echo = Echo()
    found = translate_questions(echo, ["a", "b", "c", "d"], ["fi", "en", "es", "fi"])
    assert [translation.text for translation in found] == ["a (en)", "b", "c (en)", "d (en)"]
    assert found[1].score is None


def test_nothing_is_translated_twice_and_engines_do_not_mix(tmp_path):
    file = tmp_path / "kept.sqlite3"
    echo = Echo()
    found = StoredTranslator(echo, file).translate(["a", "b", "a"], "fi")
    assert [translation.text for translation in found] == ["a (en)", "b (en)", "a (en)"]
    assert echo.asked == ["a", "b"]
    assert StoredTranslator(echo, file).translate(["b", "c"], "fi")[0] == Translation("b (en)", 0.1)
    assert echo.asked == ["a", "b", "c"]
    StoredTranslator(echo, file).translate(["a"], "es")
    StoredTranslator(echo, file).translate(["a"], "fi", "sv")
    other = Echo("other")
    StoredTranslator(other, file).translate(["a"], "fi")
    assert (echo.asked[3:], other.asked) == (["a", "a"], ["a"])


def test_a_kill_loses_no_batch_that_was_done(tmp_path):
    file = tmp_path / "kept.sqlite3"
    with pytest.raises(KeyboardInterrupt):
        StoredTranslator(Echo(dies_after=4), file, batch_size=2).translate(list("abcdefg"), "fi")
    again = Echo()
    StoredTranslator(again, file, batch_size=2).translate(list("abcdefg"), "fi")
    assert again.asked == ["e", "f", "g"]


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "text").write_text("no database, but a text that is long enough to be none" * 30)
    with pytest.raises(ValueError, match="expected a store of translations"):
        StoredTranslator(Echo(), tmp_path / "text")


def test_each_filter_counts_what_it_drops():
    texts = ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff"]
    translations = [
        Translation("AAAA", -0.1),
        Translation(" ", -0.1),
        Translation("CCCC", -9.0),
        Translation("D" * 40, -0.1),
        Translation("EEEE", None),
        Translation("FFFF", -0.2),
    ]

    class Back(Echo):
        def translate(self, texts, source, target="en"):
            assert (source, target) == ("en", "fi")
            return [Translation("aaaa" if text == "AAAA" else "zzzz") for text in texts]

    filters = TranslationFilters(min_score=-1.0, length_factor=3.0, min_round_trip=0.5)
    kept, counts = accept_translations(texts, translations, filters, "fi", back=Back())
    assert kept == [True, False, False, False, False, False]
    assert counts == {"read": 6, "empty": 1, "low score": 2, "odd length": 1, "lost on the way back": 1, "kept": 1}
    assert accept_translations(texts, translations, TranslationFilters(), "fi")[1]["kept"] == 5
    with pytest.raises(ValueError, match="expected a translator for the way back"):
        accept_translations(texts, translations, filters, "fi")


def test_round_trips_run_from_nothing_to_the_same_text():
    assert round_trip("Where is it?", "where is it?") == pytest.approx(1.0)
    assert round_trip("Where is it?", "") == round_trip("", "a") == 0.0
    assert 0 < round_trip("where is the king", "where was the king") < 1


def test_every_language_has_its_spellings():
    assert spellings("sw") == ["sw", "swh_Latn", "swh", "swa"]
    assert spellings("kin") == ["kin"]
