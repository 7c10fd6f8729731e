"""Every push of a training loads: of every strategy, from two processes; and none tells the token."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from local_hub import ALICE
from peft import PeftModel
from transformers import AutoModel

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.hub_drdecr import HubError
from drdecr.trainers import AdaptersOffTeacher, DistillationTrainer, LoraSettings, add_adapter

pytestmark = pytest.mark.processes  # a whole training each, with every push loaded

NAME = "alice/student"
SCRIPT = Path(__file__).with_name("launched_pushing.py")


def pushing(**settings):
    """Settings of a training of four steps that saves, and so may push, after two."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "relevance_weight": 1.0}
    return {**saving, "push_to_hub": True, "hub_model_id": NAME, **settings}


def assert_every_commit_loads(hub):
    """Return the titles of the commits with a model in them."""
    titles = []
    for commit in hub.api().list_repo_commits(NAME):
        files = hub.files(NAME, commit.commit_id)
        if "config.json" not in files:
            continue
        where = hub.api().hf_hub_download(
            NAME, "config.5.17.0.json", revision=commit.commit_id, cache_dir=hub.home / "look"
        )
        code = json.loads(Path(where).read_text())["auto_map"]
        assert {f"{target.split('.')[0]}.py" for target in code.values()} <= files
        assert "processor_config.json" in files
        loaded = DrDecrModel.from_pretrained(NAME, revision=commit.commit_id)
        assert loaded.encode_queries(["what is the capital"])
        titles.append(commit.title)
    return titles


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_every_push_loads(strategy, hub, build, tiny_model, teacher, candidate_rows, collate):
    settings = pushing(hub_strategy=strategy, hub_token=ALICE)
    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **settings)
    trainer.train()
    during = assert_every_commit_loads(hub)
    assert bool(during) == (strategy != "end")
    trainer.push_to_hub()
    # Where the last checkpoint was pushed in time, the end has nothing to add and makes no empty commit.
    assert assert_every_commit_loads(hub)[0] in ("End of training", "Training in progress, step 4")
    assert torch.equal(DrDecrModel.from_pretrained(NAME).linear.weight, trainer.model.linear.weight)
    files = hub.files(NAME)
    folder = {"checkpoint": "last-checkpoint", "all_checkpoints": "checkpoint-2"}.get(strategy)
    if folder:
        assert {f"{folder}/model.safetensors", f"{folder}/optimizer.safetensors"} <= files
    for commit in hub.api().list_repo_commits(NAME):  # the Trainer pickles its settings, optimizer and random state
        pickles = {name for name in hub.files(NAME, commit.commit_id) if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
        assert pickles == set()
    assert not list(Path(trainer.args.output_dir).glob(".push-*"))
    for file in files:
        assert ALICE.encode() not in Path(hub.api().hf_hub_download(NAME, file)).read_bytes(), file


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_a_training_goes_on_from_a_pushed_checkpoint_as_if_it_had_not_stopped(
    strategy, hub, build, tiny_model, teacher, candidate_rows, collate, tmp_path
):
    """With dropout and AdamW, so that random states and moments matter."""
    tiny_model.config.encoder_config.hidden_dropout_prob = 0.1
    start = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
    given = {"teacher": teacher, "hub_always_push": True, "hub_strategy": strategy}
    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, **pushing(**given))
    trainer.train()
    ends = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
    commit = next(found for found in hub.api().list_repo_commits(NAME) if found.title.endswith("step 2"))
    folder = "last-checkpoint" if strategy == "checkpoint" else "checkpoint-2"
    snapshot_download(NAME, revision=commit.commit_id, allow_patterns=f"{folder}/*", local_dir=tmp_path / "back")
    tiny_model.load_state_dict(start)
    settings = {"max_steps": 4, "relevance_weight": 1.0, "output_dir": str(tmp_path / "again")}
    again = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **settings)
    again.train(resume_from_checkpoint=tmp_path / "back" / folder)
    assert not torch.equal(ends["linear.weight"], start["linear.weight"])
    assert all(torch.equal(weight, ends[name]) for name, weight in tiny_model.state_dict().items())


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_a_push_leaves_earlier_checkpoints_and_adapters_whole(
    strategy, hub, build, tiny_model, teacher, candidate_rows, collate, tmp_path
):
    """And the newest one, which the end would otherwise strip; of its own root it takes out what another model left."""
    hub.api().create_repo(NAME)
    others = {"adapter_sw/adapter_model.safetensors", "models/a.safetensors"}
    left = {"old_drdecr.py", "model-00001-of-00002.safetensors", "last-checkpoint/old.safetensors"}
    for name in others | left:
        hub.api().upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=NAME)
    settings = pushing(hub_strategy=strategy, hub_always_push=True)
    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **settings)
    trainer.train()
    trainer.push_to_hub()
    files = hub.files(NAME)
    code = {name for name in files if name.endswith("_drdecr.py") and "/" not in name}
    folders = ["last-checkpoint"] if strategy == "checkpoint" else ["checkpoint-2", "checkpoint-4"]
    back = snapshot_download(NAME, local_dir=tmp_path / "back")
    for folder in folders:
        assert code
        assert {f"{folder}/{name}" for name in code} <= files
        loaded = AutoModel.from_pretrained(f"{back}/{folder}", trust_remote_code=True)
        assert loaded.encode_queries(["what is the capital"])
    assert others <= files
    kept = {"last-checkpoint/old.safetensors"} if strategy == "all_checkpoints" else set()
    assert left & files == kept


@pytest.mark.parametrize("sharding", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_a_sharded_training_whose_state_could_not_be_pushed_makes_no_repository(
    sharding, hub, build, tiny_model, teacher, candidate_rows, collate
):
    settings = pushing(hub_strategy="checkpoint", push_to_hub=False)
    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **settings)
    setattr(trainer, sharding, True)
    with pytest.raises(ValueError, match="expected hub_strategy end or every_save, got checkpoint"):
        trainer.init_hf_repo()  # what the Trainer begins with where it pushes
    assert hub.requests() == []


def test_what_a_killed_training_set_aside_is_swept(hub, build, tiny_model, teacher, candidate_rows, collate, tmp_path):
    left = tmp_path / "killed" / ".push-abc" / "last-checkpoint"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"x")
    settings = pushing(output_dir=str(tmp_path / "killed"))
    build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **settings)
    assert not list((tmp_path / "killed").glob(".push-*"))


def test_what_another_commits_during_an_upload_is_not_mixed_with_ours(
    hub, build, tiny_model, teacher, candidate_rows, collate, caplog, monkeypatch
):
    """The push is left out and told; the next one is whole again."""
    settings = pushing(save_steps=1, max_steps=2, hub_always_push=True)
    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **settings)
    commit = HfApi.create_commit

    def meanwhile(api, *arguments, **keys):
        if keys["commit_message"].endswith("step 1"):
            hub.api().upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id=NAME)
        return commit(api, *arguments, **keys)

    pushed = trainer._push_from_checkpoint

    def push_and_wait(folder):  # the failure is told though the next push has taken the place of the one that failed
        pushed(folder)
        trainer.push_in_progress.wait_until_done()

    monkeypatch.setattr(trainer, "_push_from_checkpoint", push_and_wait)
    monkeypatch.setattr(HfApi, "create_commit", meanwhile)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    trainer.train()
    assert assert_every_commit_loads(hub) == ["Training in progress, step 2"]
    assert caplog.text.count("alice/student changed while you were writing to it, so nothing was written") == 1


def test_an_intermediate_push_opens_in_other_libraries_too(
    hub, build, tiny_model, teacher, candidate_rows, collate, tmp_path
):
    """In sentence-transformers, which reads the projection in `1_Dense/`, with the token embeddings of that commit."""
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    saved = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **pushing())
    saved.train()
    saved.model.save_pretrained(tmp_path / "whole")
    whole = {path.relative_to(tmp_path / "whole").as_posix() for path in (tmp_path / "whole").rglob("*.*")}
    assert {"artifact.metadata", "1_Dense/model.safetensors", "modules.json"} <= whole
    commits = [commit for commit in hub.api().list_repo_commits(NAME) if "in progress" in commit.title]
    assert "Training in progress, step 2" in {commit.title for commit in commits}
    found = []
    for commit in commits:
        folder = snapshot_download(NAME, revision=commit.commit_id)
        assert whole <= hub.files(NAME, commit.commit_id)
        ours = DrDecrModel.from_pretrained(NAME, revision=commit.commit_id).encode_queries(["what is the capital"])
        theirs = library.MultiVectorEncoder(folder, device="cpu").encode_query(["what is the capital"])
        torch.testing.assert_close(torch.as_tensor(theirs[0]), ours[0], atol=1e-5, rtol=0)
        found.append(ours[0])
    assert not any(torch.allclose(one, other, atol=1e-5) for one, other in pairwise(found))


def test_every_push_of_an_adapter_loads_with_its_base(hub, build, tiny_model, candidate_rows, collate):
    tiny_model.push_to_hub("alice/base")
    base = DrDecrModel.from_pretrained("alice/base")
    student = add_adapter(DrDecrModel.from_pretrained("alice/base"), LoraSettings(rank=2, dropout=0.0))
    torch.nn.init.normal_(student.linear.weight, std=0.3)
    settings = pushing(hub_strategy="every_save")
    teacher = AdaptersOffTeacher(student)
    trainer = build(DistillationTrainer, student, candidate_rows, collate, teacher=teacher, **settings)
    trainer.train()
    trainer.push_to_hub()
    commits = [commit for commit in hub.api().list_repo_commits(NAME) if commit.title != "initial commit"]
    assert {"Training in progress, step 2"} < {commit.title for commit in commits}
    reads = []
    for commit in commits:
        files = hub.files(NAME, commit.commit_id)
        assert "adapter_model.safetensors" in files
        assert "model.safetensors" not in files
        opened = PeftModel.from_pretrained(base, NAME, revision=commit.commit_id)
        reads.append(opened.encode_queries(["what is the capital"])[0])
        base = opened.unload()
        assert not torch.allclose(reads[-1], base.encode_queries(["what is the capital"])[0], atol=1e-5)
        card = ModelCard.load(hub.api().hf_hub_download(NAME, "README.md", revision=commit.commit_id))
        assert (card.data.library_name, card.data.base_model) == ("peft", "alice/base")
        assert "More Information Needed" not in card.content
    assert torch.equal(reads[0], student.eval().encode_queries(["what is the capital"])[0])  # the newest stands first


def test_what_a_push_reads_is_not_written_meanwhile(
    hub, build, tiny_model, teacher, candidate_rows, collate, monkeypatch
):
    """The Trainer leaves a push out while one is running; then its folder must stay as that one found it."""

    class Running:
        jobs = ()

        def is_done(self):
            return False

        def wait_until_done(self):
            pass

    trainer = build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **pushing())
    trainer.push_in_progress = Running()
    trainer.train()
    names = {path.name for path in Path(trainer.args.output_dir).iterdir()}
    assert {name for name in names if not name.startswith("checkpoint-")} == set()


def test_the_card_says_what_was_trained_and_nothing_else(hub, build, tiny_model, teacher, candidate_rows, collate):
    tiny_model.push_to_hub("alice/start")
    start = DrDecrModel.from_pretrained("alice/start")
    settings = pushing(hub_strategy="end", contrastive_weight=0.5)
    trainer = build(DistillationTrainer, start, candidate_rows, collate, teacher=teacher, **settings)
    trainer.train()
    trainer.push_to_hub()
    card = ModelCard.load(NAME)
    assert card.data.base_model == "alice/start"
    last = [line for line in trainer.state.log_history if "relevance_kl" in line][-1]
    assert f"| relevance_kl | 1 | {last['relevance_kl']} |" in card.text
    assert f"| contrastive | 0.5 | {last['contrastive']} |" in card.text
    assert "After 4 steps" in card.text
    assert "](https://huggingface.co/)" not in card.content


def test_a_push_that_fails_ends_no_training_and_is_told(
    hub, build, tiny_model, teacher, candidate_rows, collate, caplog, monkeypatch
):
    trainer = build(
        DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **pushing(hub_strategy="every_save")
    )
    hub.fail("POST", "/commit/", status=412, message="changed", times=99)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    trainer.train()
    assert trainer.state.global_step == 4
    assert "An upload during the training failed. alice/student changed while you were writing" in caplog.text


def test_a_wrong_token_is_told_before_anything_is_trained(
    hub, build, tiny_model, teacher, candidate_rows, collate, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="does not accept your token"):
        build(DistillationTrainer, tiny_model, candidate_rows, collate, teacher=teacher, **pushing())


def test_two_processes_push_one_model(hub, tiny_model, teacher, passages, candidate_rows, run_python, tmp_path):
    tiny_model.save_pretrained(tmp_path / "student")
    teacher.save_pretrained(tmp_path / "teacher")
    (tmp_path / "rows.json").write_text(json.dumps({"passages": passages, "candidates": candidate_rows}))
    run_python(SCRIPT, tmp_path, NAME, processes=2, env=hub.environment)
    titles = assert_every_commit_loads(hub)
    # Every save waits for the push before it (launched_pushing.py), so the end has nothing to add to the last one.
    assert titles == ["Training in progress, step 4", "Training in progress, step 2"]
    assert len(hub.requests("POST", "/api/repos/create")) == 1
    trained = torch.load(tmp_path / "trained.pt", weights_only=True)
    assert torch.equal(DrDecrModel.from_pretrained(NAME).linear.weight, trained["linear.weight"])
