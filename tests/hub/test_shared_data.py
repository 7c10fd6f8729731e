"""Data, the metric and adapters, pushed: read back by name, replaced whole, and refused where nobody could open them."""

from functools import partial

import evaluate
import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard, constants
from local_hub import ALICE, BOB, READER
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from torch import nn
from transformers import AutoModel

from drdecr.data.embeddings.store import stored_queries, write_tokens
from drdecr.data.hub import push_dataset, write_dataset
from drdecr.data.sources import read_parallel, read_tokens
from drdecr.hub.push import push_metric
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.hub_drdecr import HubError
from drdecr.trainers import LoraSettings, add_adapter, load_merged, push_adapter

ROWS = [{"query": f"z {n}", "english": f"text {n}", "language": "xx"} for n in range(8)]
TEXTS = ["what is the capital", "the sea"]


def test_pushed_sets_are_read_by_name_streamed_and_by_column(hub, tmp_path):
    parts = {"parallel": {"train": Dataset.from_list(ROWS[:6]), "dev": Dataset.from_list(ROWS[6:])}}
    write_dataset(tmp_path / "set", parts, "# Text", {"license": "cc0-1.0"}, "stage: mixed\n")
    revision = push_dataset(tmp_path / "set", "alice/set", private=True)
    names = ("README.md", "SHA256SUMS", "recipe.yaml")
    files = {*names, *(f"parallel/{split}-00000-of-00001.parquet" for split in ("train", "dev"))}
    assert hub.files("alice/set", kind="dataset") - {".gitattributes"} == files
    assert load_dataset("alice/set", "parallel", split="dev").to_list() == ROWS[6:]
    assert list(load_dataset("alice/set", "parallel", split="train", streaming=True)) == ROWS[:6]
    some = load_dataset("alice/set", "parallel", split="train", columns=["english"])
    assert some.to_list() == [{"english": row["english"]} for row in ROWS[:6]]
    entry = {"format": "hub", "name": "alice/set", "config": "parallel", "revision": revision}
    assert read_parallel([entry]).to_list() == ROWS[:6]
    assert DatasetCard.load("alice/set").data.license == "cc0-1.0"
    # A second push replaces the first: what is no longer there goes, in the same commit.
    write_dataset(tmp_path / "other", {"parallel": {"train": Dataset.from_list(ROWS)}}, "# Text")
    assert push_dataset(tmp_path / "other", "alice/set") != revision
    assert hub.files("alice/set", kind="dataset") - {".gitattributes"} == files - {
        "parallel/dev-00000-of-00001.parquet"
    }
    assert len(hub.api().list_repo_commits("alice/set", repo_type="dataset")) == 3  # made, pushed, pushed again
    assert len(read_parallel([{**entry, "revision": None}])) == 8
    assert len(read_parallel([entry])) == 6


def test_pushed_shards_of_tokens_are_mapped_from_their_name(hub, tiny_model, tmp_path):
    stored = stored_queries(tiny_model, TEXTS, tmp_path / "tokens")
    write_tokens(stored, TEXTS, tmp_path / "written")
    parts = {"scored_candidates": {"train": Dataset.from_list(ROWS)}}
    write_dataset(tmp_path / "set", parts, "# Text", facts={}, folders={"tokens/queries": tmp_path / "written"})
    revision = push_dataset(tmp_path / "set", "alice/annotated")
    assert {name for name in hub.files("alice/annotated", kind="dataset") if name.startswith("tokens")} == {
        "tokens/queries/00000-of-00001.safetensors",
        "tokens/queries/SHA256SUMS",
        "tokens/queries/plan.json",
    }
    found = read_tokens({"format": "stored_tokens", "name": "alice/annotated", "revision": revision})
    for text in TEXTS:
        assert torch.equal(found.tokens(text), stored.tokens(text))
    assert len(load_dataset("alice/annotated", "scored_candidates", split="train")) == len(ROWS)


def test_the_metric_opens_from_its_space(hub, tmp_path, monkeypatch):
    push_metric("alice/recall_at_k_tokens")
    monkeypatch.setattr(evaluate.config, "HF_ENDPOINT", hub.address)
    monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", hub.address + "/spaces/{path}/resolve/{revision}/{name}")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
    metric = evaluate.load("alice/recall_at_k_tokens", cache_dir=str(tmp_path))
    found = metric.compute(predictions=[["a king"], ["a sea"]], references=[["king"], ["river"]], tokenize=str.split)
    assert found == {"R@2kt": 0.5, "R@5kt": 0.5, "num_questions": 2, "num_skipped": 0, "tokenizer": "split"}


def test_a_pushed_adapter_opens_with_the_base_it_names(hub, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "base")
    DrDecrModel.from_pretrained(tmp_path / "base").push_to_hub("alice/base", private=True)
    model = add_adapter(DrDecrModel.from_pretrained(tmp_path / "base"), LoraSettings(rank=2, dropout=0.0)).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    with pytest.raises(ValueError, match="expected the Hub name"):
        push_adapter(model, "alice/adapter")
    push_adapter(model, "adapter", base="alice/base", private=True)
    assert hub.api().model_info("alice/adapter").private
    card = ModelCard.load("alice/adapter")
    card.validate()
    assert (card.data.library_name, card.data.base_model) == ("peft", "alice/base")
    assert 'from_pretrained("alice/adapter", trust_remote_code=True)' in card.text
    assert "[More Information Needed]" not in card.content
    assert "adapter_model.safetensors" in hub.files("alice/adapter")
    assert not {"model.safetensors", "tokenizer.json"} & hub.files("alice/adapter")
    opened = [
        DrDecrModel.from_pretrained("alice/adapter"),
        AutoModel.from_pretrained("alice/adapter", trust_remote_code=True),
        AutoPeftModelForFeatureExtraction.from_pretrained("alice/adapter", trust_remote_code=True),
        PeftModel.from_pretrained(DrDecrModel.from_pretrained("alice/base"), "alice/adapter"),
        load_merged("alice/adapter"),
    ]
    expected = torch.cat(model.encode_queries(TEXTS))
    for found in opened:
        assert torch.allclose(torch.cat(found.encode_queries(TEXTS)), expected, atol=1e-5)


def set_of(tmp_path):
    write_dataset(tmp_path / "set", {"parallel": {"train": Dataset.from_list(ROWS)}}, "# Text")
    return tmp_path / "set"


def adapter_of(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    return add_adapter(DrDecrModel.from_pretrained(tmp_path / "base"), LoraSettings(rank=2))


PUSHES = {
    "dataset": lambda model, folder: push_dataset(set_of(folder), "alice/set"),
    "space": lambda model, folder: push_metric("alice/recall_at_k_tokens"),
    "model": lambda model, folder: push_adapter(adapter_of(model, folder), "alice/adapter", base="alice/base"),
}
NAMES = {"dataset": "alice/set", "space": "alice/recall_at_k_tokens", "model": "alice/adapter"}


@pytest.mark.parametrize("kind", PUSHES)
@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_wrong", "does not accept your token.*hf auth login"),
        (READER, "may not write to {name}.*role `write`"),
        (BOB, "may not write to {name}.*role `write`"),
        (None, "Not logged in.*hf auth login"),
    ],
)
def test_a_token_that_may_not_push_is_told_in_one_line(kind, token, said, hub, tiny_model, tmp_path, monkeypatch):
    hub.api().create_repo(NAMES[kind], repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(hub.home / "token"))
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=said.format(name=NAMES[kind])) as caught:
        PUSHES[kind](tiny_model, tmp_path)
    assert "\n" not in str(caught.value)
    assert not [known for known in (ALICE, READER, BOB, "hf_wrong") if known in str(caught.value)]
    assert hub.files(NAMES[kind], kind=kind) == set()


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_a_public_repository_does_not_take_what_is_private(kind, hub, tmp_path):
    hub.api().create_repo(NAMES[kind], repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    pushes = {"dataset": partial(push_dataset, set_of(tmp_path)), "space": push_metric}
    with pytest.raises(ValueError, match=f"{NAMES[kind]} exists and is public, so nothing was pushed"):
        pushes[kind](NAMES[kind], private=True)
    assert hub.files(NAMES[kind], kind=kind) == set()


@pytest.mark.parametrize("kind", PUSHES)
def test_a_push_that_the_hub_breaks_off_commits_nothing(kind, hub, tiny_model, tmp_path):
    hub.fail("POST", "/commit/", status=412, message="changed")
    with pytest.raises(HubError, match=f"{NAMES[kind]} changed while you were writing to it, so nothing was written"):
        PUSHES[kind](tiny_model, tmp_path)
    assert hub.files(NAMES[kind], kind=kind) == set()


def test_sets_of_another_writer_are_not_mixed_with_ours(hub, tmp_path, monkeypatch):
    hub.api().create_repo("alice/set", repo_type="dataset")
    listed = HfApi.list_repo_files

    def meanwhile(*arguments, **keys):
        found = listed(*arguments, **keys)
        theirs = {"path_in_repo": "theirs/train-0.parquet", "repo_id": "alice/set", "repo_type": "dataset"}
        hub.api().upload_file(path_or_fileobj=b"x", **theirs)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(HfApi, "list_repo_files", meanwhile)
        with pytest.raises(HubError, match="changed while you were writing"):
            push_dataset(set_of(tmp_path), "alice/set")
    assert hub.files("alice/set", kind="dataset") == {"theirs/train-0.parquet"}
