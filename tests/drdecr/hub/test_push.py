"""From a run to the Hub and back: what is pushed, what failures say and leave behind, recipes that name repositories."""

import errno
import json
import re

import huggingface_hub.file_download
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from local_hub import ALICE, BOB, READER

from drdecr.hub.push import model_files, push_folder
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.hub_drdecr import HubError
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs.model_card import write_missing_card
from drdecr.runs.model_loading import load_student
from drdecr.runs.recipe import Recipe
from drdecr.runs.stage import run_stage, save_model

CODE = {"configuration_drdecr", "encoding_drdecr", "interop_drdecr", "modeling_drdecr", "processing_drdecr"}
CODE |= {"hub_drdecr", "scoring_drdecr", "scoring_gradient_drdecr"}
FILES = {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"}
FILES |= {"tokenizer_config.json", *(f"{name}.py" for name in CODE)}
# For the other loaders (docs/loaders.md): sentence-transformers and PyLate, then Stanford ColBERT.
FILES |= {"modules.json", "config_sentence_transformers.json", "1_Dense/config.json", "1_Dense/model.safetensors"}
FILES |= {"artifact.metadata", "config.5.17.0.json"}


@pytest.fixture
def run(recipe_of):
    """The folder of a finished run."""
    recipe = recipe_of("start", stage="initialise")
    run_stage(recipe)
    write_missing_card(recipe.folder)
    return recipe.folder


@pytest.fixture
def hasty(monkeypatch):
    """Try again at once where the Hub's client would wait."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def commits(hub, name="alice/student"):
    return [commit.title for commit in hub.api().list_repo_commits(name)]


def weights(name, **where):
    return DrDecrModel.from_pretrained(name, **where).state_dict()


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# What is pushed


def test_push_uploads_all_that_is_needed_and_prints_the_address(hub, call, run):
    code, output, errors = call("push", run, "alice/student", "--private", "--tag", "v1")
    assert code == 0, errors
    assert output.splitlines()[-1] == f"{hub.address}/alice/student/tree/v1"
    assert hub.files("alice/student") == FILES
    assert hub.api().model_info("alice/student").private
    assert commits(hub) == ["Upload model", "initial commit"]
    assert_same_weights(weights("alice/student", revision="v1"), weights(run / "model"))
    card = ModelCard.load("alice/student")
    assert 'from_pretrained("alice/student", trust_remote_code=True)' in card.text
    assert "not been measured" in card.text
    assert card.data.library_name == "transformers"
    assert not re.search(r"THIS_REPOSITORY|\bNone\b|\{\{", card.content)


def test_pushing_again_commits_what_changed_and_nothing_else(hub, run):
    address = push_folder(run, "student")
    assert address == f"{hub.address}/alice/student"
    assert push_folder(run / "model", "alice/student") == address
    assert commits(hub) == ["Upload model", "initial commit"]
    left = {
        "model-00001-of-00002.safetensors": b"x",
        "old_drdecr.py": b"",
        "training_args.bin": b"x",
        "notes.txt": b"kept",
    }
    for name, content in left.items():
        hub.api().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="alice/student")
    push_folder(run, "alice/student")
    assert hub.files("alice/student") == FILES | {"notes.txt"}


def test_a_branch_is_made_and_main_stays(hub, run):
    push_folder(run, "alice/student", revision="other", tag="v2")
    assert hub.files("alice/student") == set()
    assert hub.files("alice/student", "other") == hub.files("alice/student", "v2") == FILES


def test_what_is_not_the_model_stays_here_whatever_its_name(run, tmp_path):
    others = [
        "optimizer.pt",
        "training_args.bin",
        "trainer_state.json",
        ".hidden",
        "id_rsa",
        "secrets.txt",
        "notes.ipynb",
    ]
    others += [
        "a.pickle",
        "b.ckpt",
        "c.dnn",
        "d.PT",
        "e.joblib",
        "f.pkl.gz",
        "x.npy",
        "data.db",
        "other.safetensors",
        "own.py",
    ]
    others += ["sub/model.safetensors", "sub/README.md", "1_Dense/notes.txt", "1_Dense/deep/config.json"]
    for name in others:
        (run / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "model" / name).write_text("x")
    assert set(model_files(run)) == FILES
    (tmp_path / "elsewhere").write_text("secret")
    (run / "model" / "vocab.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"vocab.txt: expected a file, got a link out of the folder"):
        model_files(run)


def test_a_folder_that_is_no_whole_model_is_refused_before_the_hub_is_asked(hub, run, tmp_path):
    with pytest.raises(ValueError, match=r"missing config.json, weights \(\*.safetensors\)"):
        push_folder(tmp_path / "empty", "alice/student")
    (run / "model" / "modeling_drdecr.py").unlink()
    with pytest.raises(ValueError, match=r"missing modeling_drdecr.py"):
        push_folder(run, "alice/student")
    assert hub.requests() == []


def test_a_public_repository_does_not_take_what_is_private(hub, run):
    hub.api().create_repo("alice/student")
    with pytest.raises(ValueError, match="exists and is public"):
        push_folder(run, "alice/student", private=True)
    assert hub.files("alice/student") == set()


def test_a_public_repository_does_not_take_a_plain_push_or_a_training_that_is_private(
    hub, call, run, write_recipe, data, tiny_model
):
    hub.api().create_repo("alice/open")
    with pytest.raises(ValueError, match="alice/open exists and is public, so nothing was pushed"):
        tiny_model.push_to_hub("alice/open", private=True)
    pushing = {"push_to_hub": True, "hub_model_id": "alice/open", "hub_private_repo": True}
    rows = {"data": {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}, "model": "stage:start"}
    recipe = write_recipe("a", stage="contrastive", training=pushing, **rows)
    assert_one_line(call("train", recipe), "alice/open exists and is public, so nothing was pushed")
    assert not (run.parent / "a" / "log.jsonl").exists()
    assert hub.files("alice/open") == set()


def test_a_tag_is_never_moved(hub, run):
    push_folder(run, "alice/student", tag="v1")
    before = commits(hub)
    (run / "model" / "notes.md").write_text("new")
    with pytest.raises(ValueError, match="has a tag 'v1' already"):
        push_folder(run, "alice/student", tag="v1")
    assert commits(hub) == before


# Failures: one line with the cure, no token, nothing half-written


def assert_one_line(found, *texts):
    code, output, errors = found
    assert code == 1
    bar, error, last = errors.strip().splitlines()[-1].partition("error: ")  # a progress bar may stand before it
    assert error
    assert not bar or "B/s" in bar
    assert all(text in last for text in texts), errors
    assert not [token for token in (ALICE, READER, BOB, "hf_wrong") if token in output + errors]


@pytest.mark.parametrize(
    ("token", "texts"),
    [
        ("hf_wrong", ["does not accept your token", "hf auth login"]),
        (READER, ["may not write to alice/student", "role `write`"]),
        (BOB, ["may not write to alice/student", "role `write`"]),
        (None, ["Not logged in", "hf auth login"]),
    ],
)
def test_a_token_that_may_not_push(token, texts, hub, call, run, monkeypatch):
    hub.api().create_repo("alice/student")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(hub.home / "token"))
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    assert_one_line(call("push", run, "alice/student"), *texts)
    assert commits(hub) == ["initial commit"]


def test_a_wrong_token_and_a_missing_repository_when_loading(hub, call, run, monkeypatch):
    assert_one_line(call("search", "alice/nothing", "what"), "alice/nothing: no such folder here", "hf auth login")
    push_folder(run, "alice/student")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert_one_line(call("search", "alice/student", "what"), "does not accept your token")


def test_a_missing_revision(hub, call, run, write_recipe):
    push_folder(run, "alice/student")
    recipe = write_recipe("next", stage="initialise", model="alice/student", revision="v9")
    assert_one_line(call("train", recipe), "alice/student has no revision 'v9'", "/alice/student/commits/main")


def test_another_commit_in_between_is_not_mixed_with_ours(hub, run, monkeypatch):
    hub.api().create_repo("alice/student")
    listed = HfApi.list_repo_files

    def meanwhile(*arguments, **keys):
        found = listed(*arguments, **keys)
        hub.api().upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id="alice/student")
        return found

    nothing = "alice/student changed while you were writing to it, so nothing was written"
    with monkeypatch.context() as patched:
        patched.setattr(HfApi, "list_repo_files", meanwhile)
        with pytest.raises(HubError, match=nothing):
            push_folder(run, "alice/student")
    assert len(hub.api().list_repo_commits("alice/student")) == 2


@pytest.mark.usefixtures("hasty")
def test_an_upload_that_was_cut_off_commits_nothing_and_goes_on(hub, call, run):
    hub.fail("PUT", "/lfs/", cut_after=1000, times=99)
    assert_one_line(call("push", run, "alice/student"), "connection to", "run it again")
    assert commits(hub) == ["initial commit"]
    hub.heal()
    hub.fail("POST", "/commit/", status=503, times=99)
    assert_one_line(call("push", run, "alice/student"), "failure of its own (503)")
    assert len(hub.requests("PUT", "/lfs/")) == 2  # the weights, and the projection alone for sentence-transformers
    hub.heal()
    push_folder(run, "alice/student")
    assert hub.requests("PUT", "/lfs/") == []  # the weights had arrived
    assert_same_weights(weights("alice/student"), weights(run / "model"))


@pytest.mark.usefixtures("hasty")
def test_a_download_that_was_cut_off_goes_on_where_it_was(hub, call, run, monkeypatch):
    push_folder(run, "alice/student")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    hub.fail("GET", "model.safetensors", cut_after=4096)
    assert_same_weights(weights("alice/student"), weights(run / "model"))
    assert [found[2] for found in hub.requests("GET", "model.safetensors")] == ["", "bytes=4096-"]


@pytest.mark.usefixtures("hasty")
def test_a_download_that_fails_leaves_no_half_of_a_file(hub, call, run):
    push_folder(run, "alice/student")
    hub.fail("GET", "model.safetensors", cut_after=0, times=99)
    assert_one_line(call("search", "alice/student", "what"), "connection to", "run it again")
    assert not list(hub.home.rglob("model.safetensors"))
    hub.heal()
    assert_same_weights(weights("alice/student"), weights(run / "model"))


@pytest.mark.usefixtures("hasty")
def test_a_hub_that_fails_at_the_processor_gives_no_model_without_one(hub, run):
    push_folder(run, "alice/student")
    hub.fail("HEAD", "processor_config.json", status=503, message="broken", times=99)
    with pytest.raises(OSError, match=r"503|connection"):
        load_teacher("alice/student")


def test_a_full_disk(hub, call, run, monkeypatch, tmp_path, tiny_model):
    push_folder(run, "alice/student")

    def full(url, temp_file, **_):
        temp_file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", temp_file.name)

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.file_download, "http_get", full)
        assert_one_line(call("search", "alice/student", "what"), "The disk is full", "HF_HOME")
    assert not [path for path in hub.home.rglob("*.json") if "snapshots" in path.parts]
    assert_same_weights(weights("alice/student"), weights(run / "model"))

    def full_too(model, folder, **_):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(DrDecrModel, "save_pretrained", full_too)
    with pytest.raises(OSError, match="No space left"):
        save_model(tiny_model, tmp_path / "new" / "model")
    assert list((tmp_path / "new").iterdir()) == []


# Recipes


def test_a_recipe_starts_from_a_repository_and_writes_down_its_commit(hub, run, recipe_of, tiny_model):
    push_folder(run, "alice/student", tag="v1")
    commit = hub.api().model_info("alice/student").sha
    tiny_model.push_to_hub("alice/student")
    recipe = recipe_of("next", stage="initialise", model="alice/student", revision="v1")
    run_stage(recipe)
    assert_same_weights(weights(recipe.model_folder), weights(run / "model"))
    assert json.loads((recipe.folder / "run.json").read_text())["start_commit"] == commit
    newest = load_student(recipe_of("newest", stage="initialise", model="alice/student"))
    assert_same_weights(newest.state_dict(), tiny_model.state_dict())


def test_a_recipe_starts_from_a_bare_encoder_on_the_hub(hub, bare_encoder, recipe_of):
    hub.api().create_repo("alice/bert")
    hub.api().upload_folder(repo_id="alice/bert", folder_path=bare_encoder)
    settings = {"stage": "initialise", "projection": "random", "embedding_dim": 8, "processor": {"query_length": 12}}
    recipe = recipe_of("start", model="alice/bert", **settings)
    local = recipe_of("local", model=bare_encoder, **settings)
    run_stage(recipe)
    run_stage(local)
    assert_same_weights(weights(recipe.model_folder), weights(local.model_folder))
    write_missing_card(recipe.folder)
    assert push_folder(recipe.folder, "alice/student")
    assert ModelCard.load("alice/student").data.base_model == "alice/bert"


def test_a_recipe_pushes_while_it_trains_and_when_it_is_done(hub, call, run, write_recipe, data, caplog):
    pushing = {
        "push_to_hub": True,
        "hub_model_id": "alice/trained",
        "hub_strategy": "every_save",
        "hub_private_repo": True,
    }
    keys = {"data": {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}, "model": "stage:start"}
    recipe = write_recipe("a", stage="contrastive", training={**pushing, "save_steps": 2, "max_steps": 4}, **keys)
    code, _, errors = call("train", recipe)
    assert code == 0, errors
    assert f"Pushed to {hub.address}/alice/trained." in caplog.messages
    assert hub.api().model_info("alice/trained").private
    assert hub.files("alice/trained") == FILES | {"curves.png"}  # and no pickle that the Trainer left on its way
    titles = commits(hub, "alice/trained")
    assert titles[0] == "End of training"
    assert titles[-2] == "Training in progress, step 2"
    assert_same_weights(weights("alice/trained"), weights(run.parent / "a" / "model"))
    card = ModelCard.load("alice/trained")
    assert "| a | contrastive | 20 questions | 4 | 4 |" in card.text
    assert "| a | questions | jsonl: train |" in card.text
    assert card.data.language == ["en", "xx"]
    assert "not been measured" in card.text


def test_a_push_that_fails_after_the_training_says_how_to_push_its_model(hub, call, run, write_recipe, data):
    pushing = {"push_to_hub": True, "hub_model_id": "alice/trained", "hub_strategy": "end"}
    keys = {"data": {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}, "model": "stage:start"}
    recipe = write_recipe("a", stage="contrastive", training=pushing, **keys)
    hub.fail("POST", "/commit/", status=403, message="no rights")
    folder = run.parent / "a"
    assert_one_line(call("train", recipe), "may not write to alice/trained", f"`drdecr push {folder} alice/trained`")
    assert (folder / "run.json").exists()
    assert call("push", folder, "alice/trained")[0] == 0
    assert hub.files("alice/trained") == FILES | {"curves.png"}


@pytest.mark.parametrize("merge", [True, False])
def test_what_a_run_with_an_adapter_pushes_opens_as_its_result(merge, hub, run, recipe_of, data):
    push_folder(run, "alice/base")
    lora = {"rank": 2, "target_modules": ["query", "value"], "merge": merge}
    training = {"push_to_hub": True, "hub_model_id": "alice/trained", "save_steps": 2, "learning_rate": 0.1}
    rows = {"data": {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}, "training": training}
    result = run_stage(recipe_of("a", stage="contrastive", model="alice/base", lora=lora, **rows))
    assert commits(hub, "alice/trained")[0] == "End of training"
    files = hub.files("alice/trained")
    assert ("adapter_config.json" in files) != merge  # the trainer's pushes left an adapter, which would be followed
    assert ("model.safetensors" in files) == merge
    sources = ("alice/trained", result, "alice/base")
    pushed, here, base = (
        DrDecrModel.from_pretrained(name).encode_queries(["what is the city b"])[0] for name in sources
    )
    assert torch.equal(pushed, here)
    assert not torch.allclose(pushed, base, atol=1e-3)


def test_an_adapter_on_a_folder_is_not_pushed_because_it_would_open_nowhere_else(hub, call, run, recipe_of, data):
    lora = {"rank": 2, "target_modules": ["query", "value"], "merge": False}
    rows = {"data": {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}, "model": "stage:start"}
    pushing = {"push_to_hub": True, "hub_model_id": "alice/trained"}
    with pytest.raises(ValueError, match="expected the Hub name of the model below the adapter"):
        run_stage(recipe_of("a", stage="contrastive", lora=lora, training=pushing, **rows))
    assert not (run.parent / "a" / "log.jsonl").exists()
    recipe = recipe_of("b", stage="contrastive", lora=lora, **rows)
    run_stage(recipe)
    assert_one_line(
        call("push", recipe.folder, "alice/trained"), "expected the Hub name of the model below the adapter"
    )


def test_a_recipe_holds_no_token():
    with pytest.raises(ValueError, match="must hold no token"):
        Recipe("contrastive", "x", "y", training={"hub_token": ALICE})
