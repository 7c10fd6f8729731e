"""The tests' Hub looks at cards as the Hub does, so that a push of ours that goes through has a card that is valid."""

from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from drdecr.modeling_drdecr.hub_drdecr import HubError

METRIC = Path(__file__).parents[2] / "evaluation" / "recall_at_k_tokens" / "README.md"
INDEX = """model-index:
- name: student
  results:
  - task: {type: text-retrieval}
    dataset: {type: custom, name: tiny}
    metrics:
    - {type: mrr_at_10, value: %s}
"""


def card(metadata):
    return f"---\n{metadata}\n---\n\n# A card\n"


@pytest.mark.parametrize(
    ("kind", "metadata", "said"),
    [
        (ModelCard, "language: english", "ISO 639"),
        (ModelCard, "language: [fi, 7]", "language"),
        (ModelCard, "license: [mit, 3]", "license"),
        (ModelCard, "pipeline_tag: [a, b]", "pipeline_tag"),
        (ModelCard, "base_model: runs/demo/teacher/model", "Repo id must be in the form"),
        (ModelCard, "datasets: ['the sample data']", "Repo id must"),
        (ModelCard, INDEX % "null", "value"),
        (DatasetCard, "configs: [{config_name: parallel}]", "data_files"),
        (SpaceCard, "title: R@kt", "sdk"),
        (SpaceCard, "title: R@kt\nsdk: flask", "sdk"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_refused(kind, metadata, said, hub):
    with pytest.raises(ValueError, match=said):
        kind(card(metadata), ignore_metadata_errors=True).validate()


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        (ModelCard, f"language: [ar, fil, en]\nlicense: mit\nbase_model: user/model\ndatasets: [squad]\n{INDEX % 0.5}"),
        (DatasetCard, "license: mit\nconfigs: [{config_name: parallel, data_files: 'parallel/*.parquet'}]"),
        (SpaceCard, "title: R@kt\nsdk: gradio"),
    ],
)
def test_a_card_that_the_hub_would_take_is_taken(kind, metadata, hub):
    kind(card(metadata)).validate()


def test_the_metrics_card_is_valid(hub):
    SpaceCard.load(METRIC).validate()


def test_a_push_with_a_card_that_is_not_valid_commits_nothing(hub, tiny_model, monkeypatch):
    monkeypatch.setattr("drdecr.modeling_drdecr.modeling_drdecr.model_card", lambda *_: card("license: [3]"))
    with pytest.raises(
        HubError, match=r"does not take the metadata of the card of alice/copy.*Correct it: \"license\""
    ):
        tiny_model.push_to_hub("alice/copy")
    assert hub.files("alice/copy") == set()
