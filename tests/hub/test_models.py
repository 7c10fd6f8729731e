"""Models that were pushed are whole, and open wherever their user may read them."""

import errno
import json
import re
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from local_hub import ALICE, BOB, READER
from transformers import AutoModel, AutoProcessor

from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.modeling_drdecr.hub_drdecr import HubError, without_tokens

QUESTIONS = ["what is the capital of france ?", "where is the sea"]
FILES = {
    ".gitattributes",  # made by the Hub itself; not by the tests'
    "README.md",
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "configuration_drdecr.py",
    "encoding_drdecr.py",
    "hub_drdecr.py",
    "interop_drdecr.py",
    "modeling_drdecr.py",
    "processing_drdecr.py",
    "scoring_drdecr.py",
    "scoring_gradient_drdecr.py",
    # For the other loaders (docs/loaders.md).
    "1_Dense/config.json",
    "1_Dense/model.safetensors",
    "artifact.metadata",
    "config.5.17.0.json",
    "config_sentence_transformers.json",
    "modules.json",
}


def assert_equal(one, other):
    assert all(map(torch.equal, one.encode_queries(QUESTIONS), other.encode_queries(QUESTIONS)))


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_what_was_pushed_is_what_is_loaded(how, hub, tiny_model, tmp_path):
    if how == "push_to_hub":
        tiny_model.push_to_hub("alice/student")
    else:
        tiny_model.save_pretrained(tmp_path / "student", push_to_hub=True, repo_id="alice/student")
    assert hub.files("alice/student") == FILES - {".gitattributes"}
    loaded = DrDecrModel.from_pretrained("alice/student")
    assert_equal(loaded, tiny_model)
    assert DrDecrProcessor.from_pretrained("alice/student").query_marker == "[Q]"
    teacher = DrDecrTeacher.from_pretrained("alice/student")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert_equal(teacher, tiny_model)
    assert type(AutoProcessor.from_pretrained("alice/student", trust_remote_code=True)).__name__ == "DrDecrProcessor"


def test_a_teacher_and_a_processor_are_pushed_too(hub, tiny_model):
    teacher = DrDecrTeacher(tiny_model.config)
    teacher.load_state_dict(tiny_model.state_dict())
    teacher.push_to_hub("alice/teacher")
    tiny_model.processor.push_to_hub("alice/teacher")
    assert_equal(DrDecrModel.from_pretrained("alice/teacher"), tiny_model)


def test_a_push_from_a_script_has_a_card_that_is_true(hub, tiny_model, monkeypatch):
    tiny_model.push_to_hub("student", tags=["test"])
    card = ModelCard.load("alice/student")
    card.validate()
    data = card.data.to_dict()
    tags = ["drdecr", "ColBERT", "late-interaction", "test"]
    assert data == {"library_name": "transformers", "pipeline_tag": "sentence-similarity", "tags": tags}
    assert 'AutoModel.from_pretrained("alice/student", trust_remote_code=True)' in card.text
    assert not re.search(r"\[More Information Needed\]|\bNone\b|\{|Model type|Developed by", card.content)
    # Every example of the run's card: both templates show the same way of use.
    template = (
        (Path(__file__).parents[2] / "model_card.md").read_text().replace("THIS_REPOSITORY_OR_FOLDER", "alice/student")
    )
    calls = re.findall(r"^(?:model|questions|passages|scores) = [^#\n]*", card.text, re.MULTILINE)
    assert len(calls) == 4
    assert all(call.strip() in template for call in calls)
    # Of what was loaded from the Hub the name is known, and nothing else.
    DrDecrModel.from_pretrained("alice/student").push_to_hub("alice/copy")
    assert ModelCard.load("alice/copy").data.base_model == "alice/student"
    DrDecrModel.from_pretrained("alice/copy").push_to_hub("alice/copy")
    assert ModelCard.load("alice/copy").data.base_model == "alice/student"


def test_a_card_that_is_there_stays(hub, tiny_model):
    written = b"---\nlicense: mit\ntags: [mine]\n---\n# Mine\n"
    hub.api().create_repo("alice/student")
    hub.api().upload_file(path_or_fileobj=written, path_in_repo="README.md", repo_id="alice/student")

    def card(revision="main"):
        return Path(hub.api().hf_hub_download("alice/student", "README.md", revision=revision)).read_bytes()

    tiny_model.push_to_hub("alice/student")
    tiny_model.push_to_hub("alice/student", revision="other")
    tiny_model.processor.push_to_hub("alice/student")
    assert card() == card("other") == written
    tiny_model.push_to_hub("alice/student", tags=["new"])  # which was asked for, and changes nothing else
    found = ModelCard.load("alice/student")
    assert found.data.to_dict() == {"license": "mit", "tags": ["mine", "new"]}
    assert found.text.strip() == "# Mine"


def test_a_push_leaves_nothing_of_the_model_before_that_would_be_loaded(hub, tiny_model):
    """One file, then shards, then one file again, each with other weights; what is not a model's stays."""
    hub.api().create_repo("alice/student")
    others = {"notes.txt", "adapter_sw/adapter_model.safetensors", "models/model.safetensors", "v1/modeling_drdecr.py"}
    for name in ("old_drdecr.py", *others):
        hub.api().upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="alice/student")
    for size in ("50GB", "20KB", "50GB"):
        torch.nn.init.normal_(tiny_model.linear.weight)
        tiny_model.push_to_hub("alice/student", max_shard_size=size)
        assert_equal(DrDecrModel.from_pretrained("alice/student"), tiny_model)
        files = hub.files("alice/student")
        assert ("model.safetensors" in files) == (size == "50GB")
        assert ("model.safetensors.index.json" in files) == (size == "20KB")
        assert "1_Dense/model.safetensors" in files
    assert hub.files("alice/student") == FILES - {".gitattributes"} | others


def test_a_model_of_another_writer_is_not_mixed_with_ours(hub, tiny_model, monkeypatch):
    hub.api().create_repo("alice/student")
    commit = HfApi.create_commit

    def meanwhile(api, *arguments, **keys):
        if keys.get("commit_message") == "Upload model":
            hub.api().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/student")
        return commit(api, *arguments, **keys)

    with monkeypatch.context() as patched:
        patched.setattr(HfApi, "create_commit", meanwhile)
        with pytest.raises(HubError, match="changed while you were writing"):
            tiny_model.push_to_hub("alice/student")
    assert hub.files("alice/student") == {"config.json"}
    tiny_model.push_to_hub("alice/student")
    assert_equal(DrDecrModel.from_pretrained("alice/student"), tiny_model)


PUSHES = {
    "student": lambda model: model.push_to_hub("alice/student"),
    "teacher": lambda model: DrDecrTeacher(model.config).push_to_hub("alice/student"),
    "processor": lambda model: model.processor.push_to_hub("alice/student"),
    "saving": lambda model: model.save_pretrained("student", push_to_hub=True, repo_id="alice/student"),
}


@pytest.mark.parametrize("what", PUSHES)
@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_wrong", "does not accept your token.*hf auth login"),
        (READER, "may not write to alice/student.*role `write`"),
        (BOB, "may not write to alice/student.*role `write`"),
        (None, "Not logged in.*hf auth login"),
    ],
)
def test_a_push_from_a_script_that_may_not_be_says_so_in_one_line(
    what, token, said, hub, tiny_model, tmp_path, monkeypatch
):
    hub.api().create_repo("alice/student")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(hub.home / "token"))
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=said) as caught:
        PUSHES[what](tiny_model)
    assert "\n" not in str(caught.value)
    assert not [known for known in (ALICE, READER, BOB, "hf_wrong") if known in str(caught.value)]
    assert hub.files("alice/student") == set()


def test_a_script_is_told_in_one_line_what_it_cannot_load(hub, tiny_model, monkeypatch):
    tiny_model.push_to_hub("alice/student")
    for opened in (DrDecrModel, DrDecrTeacher, DrDecrProcessor):
        with pytest.raises(HubError, match="alice/nothing: no such folder here, and no such repository on the Hub"):
            opened.from_pretrained("alice/nothing")
        with pytest.raises(HubError, match="alice/student has no revision 'v9'"):
            opened.from_pretrained("alice/student", revision="v9")
        with pytest.raises(HubError, match="does not accept your token"):
            opened.from_pretrained("alice/student", token="hf_wrong_hf_wrong_wrong", force_download=True)


@pytest.mark.parametrize("token", ["hf_alice_write\n", "hf_älice_write", "någon"])
def test_a_token_that_cannot_be_sent_is_not_shown(token, hub, tiny_model):
    for act in (
        lambda: tiny_model.push_to_hub("alice/student", token=token),
        lambda: DrDecrModel.from_pretrained("alice/student", token=token),
        lambda: DrDecrProcessor.from_pretrained("alice/student", token=token),
    ):
        with pytest.raises(
            HubError, match=r"token holds a line break, a blank or a letter beyond ASCII.*hf auth"
        ) as caught:
            act()
        assert token.strip() not in "".join(traceback.format_exception(caught.value))


def test_tokens_of_every_kind_are_blotted_out(hub):
    found = ["hf_oauth_eyJh.bGci-Oi_x", "hf_jwt_eyJh.bGci-Oi", "api_org_AbCdEfGhIj", "hf_AbCdEfGhIjKlMnOp", ALICE]
    assert without_tokens("; ".join(found)) == "; ".join(["hf_***"] * len(found))
    assert without_tokens("Bearer secret-of-mine", "secret-of-mine\n") == "Bearer hf_***"


def test_what_may_not_be_asked_for_is_told_to_be_absent_from_the_cache(hub):
    for opened in (DrDecrModel, DrDecrProcessor):
        with pytest.raises(HubError, match=r"alice/nothing is not in the cache.*without `local_files_only`"):
            opened.from_pretrained("alice/nothing", local_files_only=True)


def test_a_push_from_a_script_whose_connection_is_lost_goes_on(hub, tiny_model, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    tiny_model.push_to_hub("alice/student")
    commits = [commit.commit_id for commit in hub.api().list_repo_commits("alice/student")]
    torch.nn.init.normal_(tiny_model.linear.weight)
    for method, path in (("PUT", "/lfs/"), ("POST", "/commit/")):
        hub.fail(method, path, cut_after=100, times=99)
        with pytest.raises(HubError, match=r"The connection to .* failed or was lost.*run it again") as caught:
            tiny_model.push_to_hub("alice/student")
        assert "\n" not in str(caught.value)
        hub.heal()
        assert [commit.commit_id for commit in hub.api().list_repo_commits("alice/student")] == commits
    tiny_model.push_to_hub("alice/student")
    assert_equal(DrDecrModel.from_pretrained("alice/student"), tiny_model)


def test_a_push_that_finds_the_disk_full_says_so_and_leaves_nothing(hub, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    processor = type(tiny_model.processor)

    def full(self, folder, **_):
        raise OSError(errno.ENOSPC, "No space left on device", f"{folder}/tokenizer.json")

    with monkeypatch.context() as patched:
        patched.setattr(processor, "save_pretrained", full)
        with pytest.raises(HubError, match=r"The disk is full: there is no room for .*tokenizer\.json"):
            tiny_model.push_to_hub("alice/student")
    assert not hub.api().repo_exists("alice/student")
    assert hub.requests("POST") == []
    assert [path for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


def test_a_processor_alone_brings_no_card(hub, tiny_model):
    tiny_model.processor.push_to_hub("alice/processor")
    files = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {name for name in hub.files("alice/processor") if not name.endswith(".py")} == files


def test_a_private_model_is_for_those_who_may_read_it(hub, tiny_model):
    tiny_model.push_to_hub("alice/secret", private=True)
    assert_equal(DrDecrModel.from_pretrained("alice/secret", token=READER), tiny_model)
    for token in (BOB, False):
        with pytest.raises(HubError, match="alice/secret: no such folder here, and no such repository"):
            DrDecrModel.from_pretrained("alice/secret", token=token, cache_dir=hub.home / str(token))


def test_every_revision_loads_as_it_was_pushed(hub, tiny_model):
    first = DrDecrModel.from_pretrained(_pushed(hub, tiny_model, "first"))
    torch.nn.init.normal_(tiny_model.linear.weight)
    tiny_model.processor.query_length = 9
    tiny_model.push_to_hub("alice/student", revision="other")
    hub.api().create_tag("alice/student", tag="v2", revision="other")
    assert_equal(DrDecrModel.from_pretrained("alice/student"), first)
    commit = hub.api().model_info("alice/student", revision="other").sha
    for revision in ("other", "v2", commit):
        loaded = DrDecrModel.from_pretrained("alice/student", revision=revision)
        assert loaded.processor.query_length == 9  # of the same revision, not of main
        assert_equal(loaded, tiny_model)


def _pushed(hub, model, message):
    model.push_to_hub("alice/student", commit_message=message)
    return "alice/student"


def test_once_loaded_it_opens_offline(hub, tiny_model, monkeypatch):
    name = _pushed(hub, tiny_model, "first")
    DrDecrModel.from_pretrained(name)
    hub.heal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_equal(DrDecrModel.from_pretrained(name), tiny_model)
    assert hub.requests() == []
    with pytest.raises(HubError, match=r"alice/other is not in the cache.*without HF_HUB_OFFLINE"):
        DrDecrModel.from_pretrained("alice/other")


REMOTE = f"""
import sys
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("alice/student", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
first = model.encode_queries({QUESTIONS!r})
if len(sys.argv) > 2:  # offline: what the process before this one left in the cache
    model = AutoModel.from_pretrained("alice/again", trust_remote_code=True)
else:
    model.push_to_hub("alice/again")
    model = AutoModel.from_pretrained("alice/again", trust_remote_code=True)
assert all(map(torch.equal, first, model.encode_queries({QUESTIONS!r})))
torch.save(first, sys.argv[1])
"""


@pytest.mark.processes
def test_a_model_pushed_again_from_where_the_package_is_absent_is_whole(hub, tiny_model, run_bare, tmp_path):
    name = _pushed(hub, tiny_model, "first")
    for words in ([], ["offline"]):
        environment = {**hub.environment, **({"HF_HUB_OFFLINE": "1"} if words else {})}
        run_bare(REMOTE, tmp_path / "embeddings.pt", *words, env=environment, cwd=tmp_path)
        found = torch.load(tmp_path / "embeddings.pt")
        assert all(map(torch.equal, found, tiny_model.encode_queries(QUESTIONS)))
    assert hub.files("alice/again") == hub.files(name)
    assert_equal(DrDecrModel.from_pretrained("alice/again"), tiny_model)


PINNED = """
import sys
from transformers import AutoModel
for revision in sys.argv[1:]:
    AutoModel.from_pretrained("alice/student", revision=revision, trust_remote_code=True)
    print("loaded", revision)
"""


@pytest.mark.processes
def test_a_pinned_commit_runs_the_code_of_that_commit(hub, tiny_model, run_bare, tmp_path):
    name = _pushed(hub, tiny_model, "first")
    good = hub.api().model_info(name).sha
    code = b"print('tampered')\n" + (Path(_source()).read_bytes())
    hub.api().upload_file(path_or_fileobj=code, path_in_repo="modeling_drdecr.py", repo_id=name)
    pinned, moved = (run_bare(PINNED, name, env=hub.environment, cwd=tmp_path).stdout for name in (good, "main"))
    assert pinned.split() == ["loaded", good]
    assert "tampered" in moved.split()  # so the code was indeed tampered with


def test_our_own_class_runs_no_code_of_a_repository(hub, tiny_model):
    name = _pushed(hub, tiny_model, "first")
    code = b"raise SystemExit('tampered')\n"
    hub.api().upload_file(path_or_fileobj=code, path_in_repo="modeling_drdecr.py", repo_id=name)
    assert_equal(DrDecrModel.from_pretrained(name), tiny_model)
    with pytest.raises(SystemExit, match="tampered"):  # which transformers does, once it is trusted
        AutoModel.from_pretrained(name, trust_remote_code=True)


def _source():
    return sys.modules[DrDecrModel.__module__].__file__


def test_a_checkpoint_of_a_newer_version_says_what_to_update(hub, tiny_model, tmp_path):
    name = _pushed(hub, tiny_model, "first")
    config = json.loads(Path(hub.api().hf_hub_download(name, "config.5.17.0.json")).read_text())
    config["drdecr"]["format_version"] += 1
    changed = json.dumps(config).encode()
    hub.api().upload_file(path_or_fileobj=changed, path_in_repo="config.5.17.0.json", repo_id=name)
    with pytest.raises(ValueError, match=r"of format 2; .* up to 1.*pip install --upgrade drdecr"):
        DrDecrModel.from_pretrained(name)
