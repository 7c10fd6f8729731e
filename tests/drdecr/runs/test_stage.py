"""Stages of every kind, end to end on tiny data: what they leave, what they refuse, and that they resume."""

import json
import logging
import re

import pytest
import torch
from datasets import Dataset
from transformers import BertModel, Trainer

from drdecr.data.mixture import split_dev
from drdecr.data.readers.jsonl import read_jsonl
from drdecr.data.sources import read_parallel
from drdecr.evaluation.evaluate import encode_passages, search_questions
from drdecr.evaluation.metrics import per_query_scores
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs.model_loading import load_student
from drdecr.runs.recipe import Recipe, load_recipe
from drdecr.runs.run_folder import STATE, read_state, update_state
from drdecr.runs.stage import build_arguments, build_trainer, run_stage, save_model
from drdecr.runs.training_data import build_training_data, prepare_sets
from drdecr.runs.validation import read_validation
from drdecr.trainers import LoraSettings, add_adapter
from drdecr.trainers.projection import hidden_tokens


def candidates(data, **keys):
    return {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 2, **keys}


def settings_of(kind, data):
    """Keys of a quick recipe of each kind that trains."""
    if kind == "contrastive":
        return {"data": candidates(data), "validation": [data["dev"]]}
    if kind == "representation":
        return {"data": {"parallel": [data["parallel"]], "dev_texts": 2}, "teacher": "stage:start"}
    if kind == "relevance":
        return {"data": candidates(data, cache_passages=True), "teacher": "stage:start", "validation": [data["dev"]]}
    pool = {"unlabelled_queries": [data["parallel"]], "parallel": [data["parallel"]], "corpus": [data["train"]]}
    return {
        "data": candidates(
            data, **pool, english_share=0.2, weights={"questions": 1, "unlabelled_queries": 1, "parallel": 2}
        ),
        "teacher": "stage:start",
        "training": {"relevance_weight": 1.0, "token_weight": 1.0, "anchor_weight": 1.0, "max_steps": 6},
    }


TERMS = {
    "contrastive": {"contrastive"},
    "representation": {"aligned_tokens", "english_anchor"},
    "relevance": {"relevance_kl"},
    "mixed": {"relevance_kl", "aligned_tokens", "english_anchor"},
}


def weights(folder):
    return DrDecrModel.from_pretrained(folder).state_dict()


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


@pytest.mark.parametrize("kind", TERMS)
def test_a_stage_leaves_its_folder(kind, recipe_of, start, data):
    recipe = recipe_of(kind, stage=kind, model=start, **settings_of(kind, data))
    model = run_stage(recipe)
    left = {path.name for path in recipe.folder.iterdir()} - {"candidates"}
    assert left == {STATE, "recipe.yaml", "run.json", "log.jsonl", "curves.png", "model"}
    assert load_recipe(recipe.folder / "recipe.yaml") == recipe
    run = json.loads((recipe.folder / "run.json").read_text())
    assert run["steps"] == recipe.training["max_steps"]
    told = run["settings"]  # all of them, named in the recipe or not
    assert (told["learning_rate"], told["seed"], told["weight_decay"]) == (1e-3, 12345, 0.0)
    assert (told["relevance_over"], told["alignment"]) == ("row", "greedy")
    assert run["batch_rows"] == 4
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    assert TERMS[kind] <= {name for line in log for name in line}
    assert any("eval_mrr@10_avg" in line for line in log) == bool(recipe.validation)
    trained = DrDecrModel.from_pretrained(model)
    assert trained.processor.query_length == 12
    assert largest_difference(trained.state_dict(), weights(recipe.resolve(start))) > 0
    assert (model / "modeling_drdecr.py").exists()


@pytest.mark.parametrize("projection", ["random", "pca", "language_neutral"])
def test_an_initialised_encoder_is_saved_with_processor_and_projection(projection, recipe_of, bare_encoder, data):
    keys = {"projection": projection, "projection_text": [data["parallel"]]}
    recipe = recipe_of("start", stage="initialise", **keys)
    model = DrDecrModel.from_pretrained(run_stage(recipe))
    assert model.linear.weight.shape == (8, 16)
    assert model.processor.query_marker == "[Q]"
    assert {path.name for path in recipe.folder.iterdir()} == {STATE, "recipe.yaml", "run.json", "log.jsonl", "model"}
    if projection == "pca":  # orthonormal rows
        assert torch.allclose(model.linear.weight @ model.linear.weight.T, torch.eye(8), atol=1e-5)
    if projection == "language_neutral":  # the languages' mean tokens meet
        rows = read_parallel([data["parallel"]])
        texts = (list(rows["query"]), list(rows["english"]))
        tokens = [hidden_tokens(model, model.processor.process_queries, found) for found in texts]
        means = [(found @ model.linear.weight.T).mean(dim=0) for found in tokens]
        assert (means[0] - means[1]).norm() < 1e-2 * (tokens[0].mean(dim=0) - tokens[1].mean(dim=0)).norm()


def test_a_second_call_does_nothing_and_says_so(recipe_of, start, data, monkeypatch, caplog):
    recipe = recipe_of("a", stage="contrastive", model=start, data=candidates(data))
    model = run_stage(recipe)
    before = {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*")}
    monkeypatch.setattr(Trainer, "train", None)
    with caplog.at_level(logging.WARNING):
        assert run_stage(recipe) == model
    assert "is done already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*")} == before


@pytest.mark.parametrize("kind", ["contrastive", "mixed"])
def test_a_killed_stage_resumes_to_the_weights_of_an_uninterrupted_one(kind, recipe_of, start, data, kill_in_step):
    keys = settings_of(kind, data)
    keys["training"] = {**keys.get("training", {}), "max_steps": 4, "save_steps": 2, "eval_steps": 2}
    whole = run_stage(recipe_of("whole", stage=kind, model=start, **keys))
    recipe = recipe_of("killed", stage=kind, model=start, **keys)
    begun = kill_in_step(3)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe)
    assert not recipe.model_folder.exists()
    assert (recipe.folder / "checkpoints" / "checkpoint-2").is_dir()
    settings = read_state(recipe.folder)["settings"]
    update_state(recipe.folder, settings={**settings, "temperature": 9.0})
    with pytest.raises(ValueError, match=r"begun with other settings \(temperature: 9.0, now"):
        run_stage(recipe)
    update_state(recipe.folder, settings={**settings, "processes": 2})
    with pytest.raises(ValueError, match=r"another number of processes \(2, now 1\)"):
        run_stage(recipe)
    update_state(recipe.folder, settings=settings)
    resumed = run_stage(recipe)
    assert len(begun) == 5  # steps 3 and 4, not all four again
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert not (recipe.folder / "checkpoints").exists()


@pytest.mark.parametrize(("save_only_model", "goes_on_from"), [(False, 1), (True, 2)])
def test_a_stage_leaves_a_checkpoint_out_whose_random_state_is_missing(
    save_only_model, goes_on_from, recipe_of, start, data, kill_in_step, caplog
):
    training = {"max_steps": 3, "save_steps": 1, "save_strategy": "steps", "save_only_model": save_only_model}
    recipe = recipe_of("killed", stage="contrastive", model=start, data=candidates(data), training=training)
    kill_in_step(3)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe)
    (recipe.folder / "checkpoints" / "checkpoint-2" / "rng_state.pth").unlink(missing_ok=save_only_model)
    run_stage(recipe)
    assert ("checkpoint-2 is left out: rng_state.pth is missing" in caplog.text) is not save_only_model
    assert f"Resuming from {recipe.folder / 'checkpoints'}/checkpoint-{goes_on_from}." in caplog.text


def test_a_resumed_run_counts_the_seconds_of_all_its_sessions(recipe_of, start, data, kill_in_step, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("drdecr.runs.run_folder.monotonic", lambda: clock[0])
    recipe = recipe_of(
        "killed", stage="contrastive", model=start, data=candidates(data), training={"max_steps": 4, "save_steps": 2}
    )
    step = Trainer.training_step

    def slow(*args, **kwargs):
        clock[0] += 100.0
        return step(*args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", slow)
    kill_in_step(3)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe)
    clock[0] = 5000.0  # what passes between the sessions is not the run's
    run_stage(recipe)
    assert json.loads((recipe.folder / "run.json").read_text())["seconds"] == 400.0


def test_an_interrupted_save_leaves_the_old_model(tiny_model, tmp_path, monkeypatch):
    save_model(tiny_model, tmp_path / "model")
    before = weights(tmp_path / "model")

    def interrupted(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(DrDecrModel, "save_pretrained", interrupted)
    with pytest.raises(OSError, match="disk full"):
        save_model(tiny_model, tmp_path / "model")
    assert largest_difference(before, weights(tmp_path / "model")) == 0


def test_the_start_beside_a_run_is_found(recipe_of, start):
    recipe = recipe_of("b", stage="initialise", model=start)
    beside = recipe.folder.parent / "start" / "model"
    assert largest_difference(load_student(recipe).state_dict(), weights(beside)) == 0
    with pytest.raises(FileNotFoundError, match="stage:nowhere: no model"):
        load_student(recipe_of("d", stage="initialise", model="stage:nowhere"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"embedding_dim": 128}, "embedding_dim: expected 8, what the start 'stage:start' was made with, got 128"),
        ({"processor": {"query_length": 14}}, "processor.query_length: expected 12, .* got 14"),
        ({"projection": "pca"}, "projection: expected none for the start 'stage:start'"),
        ({"projection_text": [{"format": "sample_sentences"}]}, "projection_text: expected none"),
    ],
)
def test_a_checkpoint_keeps_its_processor_and_projection(keys, message, recipe_of, start):
    with pytest.raises(ValueError, match=message):
        load_student(recipe_of("b", stage="initialise", model=start, **keys))
    load_student(recipe_of("b", stage="initialise", model=start, embedding_dim=8, processor={"query_length": 12}))


@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_a_recipes_encoder_settings_reach_the_encoder(from_checkpoint, recipe_of, start):
    keys = {"model": start} if from_checkpoint else {}
    recipe = recipe_of("b", stage="initialise", encoder={"hidden_dropout_prob": 0.25}, **keys)
    model = load_student(recipe)
    found = {module.p for name, module in model.named_modules() if name.endswith("output.dropout")}
    assert found == {0.25}
    with pytest.raises(ValueError, match=r"encoder: unknown key 'hiden_dropout_prob'.*'hidden_dropout_prob'"):
        load_student(recipe_of("b", stage="initialise", encoder={"hiden_dropout_prob": 0.0}, **keys))


@pytest.mark.parametrize("kind", ["checkpoint", "encoder", "adapter"])
def test_a_start_in_half_precision_is_trained_in_float32(kind, recipe_of, start, bare_encoder, tmp_path):
    """The adapter lies over a base in half precision."""
    half = DrDecrModel.from_pretrained(tmp_path / "runs" / "start" / "model").to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    BertModel.from_pretrained(bare_encoder).to(torch.bfloat16).save_pretrained(bare_encoder)
    add_adapter(DrDecrModel.from_pretrained(tmp_path / "half"), LoraSettings(rank=2)).save_pretrained(tmp_path / "lora")
    source = {"checkpoint": tmp_path / "half", "encoder": bare_encoder, "adapter": tmp_path / "lora"}[kind]
    model = load_student(recipe_of("b", stage="initialise", model=str(source)))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("is_offline", [False, True])
def test_an_encoder_without_its_projection_teaches_nothing(is_offline, recipe_of, start, bare_encoder, data):
    teacher = "offline" if is_offline else bare_encoder
    message = (
        f"teacher: expected a checkpoint with its projection, got a bare encoder, {teacher}. Run a stage `initialise`"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_teacher(teacher)
    recipe = recipe_of("b", stage="relevance", model=start, teacher=teacher, data=candidates(data))
    with pytest.raises(ValueError, match=re.escape(message)):
        run_stage(recipe)


def test_held_out_and_repeated_rows_are_dropped_and_counted(recipe_of, start, data, tmp_path, caplog):
    lines = (tmp_path / "xx.tsv").read_text()
    (tmp_path / "xx.tsv").write_text(lines + "Z b, x\tThe king of b!\nz z\twhat is the city m?\n")
    (tmp_path / "held.jsonl").write_text('{"question": "The KING of c"}\n')
    held = {"format": "texts", "path": str(tmp_path / "held.jsonl"), "column": "question"}
    settings = {"parallel": [data["parallel"]], "held_out": [held], "dev_texts": 0}
    recipe = recipe_of("a", stage="representation", model=start, data=settings, validation=[data["dev"]])
    with caplog.at_level(logging.WARNING):
        built = build_training_data(recipe, load_student(recipe), None, 0, 4, seed=0)
    kept = set(built.train["english"])
    assert kept == {f"the king of {letter}" for letter in "bdefghijklmnopq"}
    assert built.counts == {"parallel": 15}
    assert "parallel: dropped 1 of 18 rows: repeated rows." in caplog.messages
    assert "parallel: dropped 2 of 17 rows: rows that stand in a held-out set." in caplog.messages
    assert built.dev is None


def test_nothing_left_to_learn_is_an_error(recipe_of, start, data):
    settings = {"questions": [data["dev"]], "num_candidates": 2}
    recipe = recipe_of("a", stage="contrastive", model=start, data=settings, validation=[data["dev"]])
    with pytest.raises(ValueError, match=r"data\.questions: all 6 rows stand in a held-out set"):
        run_stage(recipe)


@pytest.mark.parametrize(
    ("settings", "message"), [({}, "at least one of `parallel`"), ({"unlabelled_queries": True}, "needs a `corpus`")]
)
def test_missing_data_says_what_is_needed(settings, message, recipe_of, start, data):
    settings = {key: [data["parallel"]] for key in settings}
    with pytest.raises(ValueError, match=message):
        run_stage(recipe_of("a", stage="relevance", model=start, teacher=start, data=settings))


def test_caches_are_encoded_on_the_device_that_trains(recipe_of, start, data, monkeypatch):
    order = []

    def record(name):
        whole = getattr(DrDecrModel, name)

        def recorded(self, *args, **kwargs):
            order.append((name, id(self)))
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(DrDecrModel, name, recorded)

    for name in ("to", "encode_documents", "encode_queries"):
        record(name)
    recipe = recipe_of("a", stage="relevance", model=start, **settings_of("relevance", data))
    trainer, _ = build_trainer(recipe, build_arguments(recipe))
    first_read = next(place for place, (name, _) in enumerate(order) if name.startswith("encode"))
    assert {model for name, model in order[:first_read] if name == "to"} >= {id(trainer.model), id(trainer.teacher)}


def test_a_mixture_without_max_steps_passes_over_all_rows(recipe_of, start, data):
    settings = candidates(data, parallel=[data["parallel"]], dev_texts=0)
    recipe = recipe_of("a", stage="mixed", model=start, data=settings, training={"contrastive_weight": 1.0})
    built = build_training_data(recipe, load_student(recipe), None, 0, 4, seed=0)
    assert sum(built.counts.values()) == 20 + 16
    assert len(built.train) == 36


def test_dev_keeps_translations_of_one_text_together():
    texts = [f"text {number}" for number in range(20)]
    rows = Dataset.from_list(
        [{"english": text, "query": f"{text} {code}"} for code in ("a", "b", "c") for text in texts]
    )
    train, dev = split_dev({"a": rows}, 3, seed=0)["a"]
    assert len(set(dev["english"])) == 3
    assert len(dev) == 9
    assert not set(dev["english"]) & set(train["english"])
    assert sorted([*train["query"], *dev["query"]]) == sorted(rows["query"])
    assert split_dev({"a": rows}, 3, seed=0)["a"][1]["query"] == dev["query"]
    assert len(set(split_dev({"a": rows}, 100, seed=0)["a"][1]["english"])) == 4  # a fifth at most


def test_a_text_is_dev_in_every_set_or_in_none():
    def rows(texts, code):
        return Dataset.from_list([{"english": text, "query": f"{text} {code}"} for text in texts])

    texts = [f"text {number}" for number in range(40)]
    louder = [f"Text {number}!" for number in range(10, 30)]  # the same texts, written otherwise
    sets = {"all": rows(texts, "a"), "some": rows(louder, "b"), "few": rows(texts[:3], "c")}
    for seed in range(5):
        parts = split_dev(sets, 6, seed)
        train, dev = (
            {text.lower().strip("!") for part in parts.values() for text in part[side]["english"]} for side in (0, 1)
        )
        assert not train & dev
        assert {name: len(part[1]) for name, part in parts.items()}["all"] == 6
        assert 0 < len(parts["some"][1]) <= 4  # a fifth of its twenty texts
        assert len(parts["few"][1]) == 0  # of three texts a fifth is none


def test_too_few_texts_for_dev_leave_none(recipe_of, start, data):
    settings = candidates(data, limits={"questions": 3})
    recipe = recipe_of("a", stage="contrastive", model=start, data=settings, validation=[data["dev"]])
    assert build_training_data(recipe, load_student(recipe), None, 1, 4, seed=0).dev is None


def test_a_first_guess_is_never_taken_for_the_answer(recipe_of, start, data):
    keys = settings_of("mixed", data)
    keys["training"]["in_batch_weight"] = 1.0
    recipe = recipe_of("a", stage="mixed", model=start, **keys)
    with pytest.raises(ValueError, match=r"unlabelled_queries: expected none for in_batch_contrastive, .*first guess"):
        build_trainer(recipe, build_arguments(recipe))


@pytest.mark.parametrize(("keys", "cut"), [({}, 0), ({"training": {"eval_strategy": "steps"}}, 4)])
def test_nothing_is_cut_off_where_nothing_is_evaluated(keys, cut, recipe_of, start, data):
    recipe = recipe_of("a", stage="contrastive", model=start, data=candidates(data, dev_texts=2), **keys)
    built = build_training_data(recipe, load_student(recipe), None, 1, 4, seed=0)
    assert built.counts == {"questions": 20 - cut}
    assert sum(len(rows) for rows in (built.dev or {}).values()) == cut


def test_a_validation_set_chooses_the_checkpoint(data):
    args = build_arguments(Recipe("contrastive", "x", "y", validation=[data["dev"]], training={"max_steps": 11}))
    assert (args.eval_strategy, args.eval_steps, args.save_steps) == ("steps", 3, 3)
    assert args.load_best_model_at_end
    assert args.metric_for_best_model == "mrr@10_avg"
    assert build_arguments(Recipe("contrastive", "x", "y", training={"max_steps": 11})).eval_strategy == "no"


def test_fsdp_takes_a_validation_set_that_the_cure_leaves_unmeasured(recipe_of, start, data, under_fsdp):
    keys = {"stage": "contrastive", "model": start, "data": candidates(data), "validation": [data["dev"]]}
    measured, cured = recipe_of("a", **keys), recipe_of("b", **keys, training={"eval_strategy": "no"})
    with pytest.raises(ValueError, match=r"FSDP: expected no validation.*`eval_strategy: no`"):
        build_trainer(measured, build_arguments(measured))
    build_trainer(cured, build_arguments(cured))


@pytest.mark.parametrize(
    ("stage", "training", "expected"),
    [
        ("relevance", {}, ("steps", 17524, 17524)),  # a fifth of the paper's 87,618
        ("contrastive", {"max_steps": -1, "num_train_epochs": 3}, ("epoch", None, 500)),
        ("mixed", {"relevance_weight": 1.0}, ("epoch", None, 500)),  # without `max_steps` it counts epochs
        ("contrastive", {"max_steps": -1, "eval_steps": 7}, ("steps", 7, 7)),
        ("contrastive", {"max_steps": 11, "eval_strategy": "steps", "eval_steps": 2}, ("steps", 2, 2)),
        ("contrastive", {"max_steps": 11, "eval_strategy": "epoch"}, ("epoch", None, 500)),
        ("contrastive", {"max_steps": 11, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 4}, ("steps", 2, 4)),
    ],
)
def test_evaluation_fits_the_length_of_the_run_and_chooses_the_checkpoint(stage, training, expected, data):
    args = build_arguments(Recipe(stage, "x", "y", validation=[data["dev"]], training=training))
    assert (args.eval_strategy, args.eval_steps, args.save_steps) == expected
    assert args.save_strategy == args.eval_strategy
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "mrr@10_avg")
    assert args.greater_is_better


def test_a_recipe_may_leave_the_choice_out_or_choose_by_a_loss(data):
    def arguments(**training):
        return build_arguments(Recipe("contrastive", "x", "y", validation=[data["dev"]], training=training))

    assert arguments(eval_strategy="no").load_best_model_at_end is False
    assert arguments(load_best_model_at_end=False, save_strategy="no").eval_strategy == "steps"
    by_loss = arguments(metric_for_best_model="eval_loss")
    assert (by_loss.load_best_model_at_end, by_loss.greater_is_better) == (True, False)


@pytest.mark.parametrize(("training", "steps"), [({"num_train_epochs": 1}, -1), ({}, 87618), ({"seed": None}, 87618)])
def test_epochs_that_a_recipe_names_alone_stand_above_the_papers_steps(training, steps):
    assert build_arguments(Recipe("relevance", "x", "y", training=training)).max_steps == steps


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"max_steps": -5}, "max_steps: expected at least 1, or -1 .*, got -5"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"num_train_epochs": 0}, "num_train_epochs: expected a number above 0, got 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: expected at least 1, got 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: expected at least 1, got 0"),
    ],
)
def test_a_training_of_nothing_is_refused_when_its_recipe_is_read(training, message):
    with pytest.raises(ValueError, match=message):
        Recipe("relevance", "x", "y", training=training)


def test_what_nothing_measures_cannot_choose_the_checkpoint(recipe_of, start, data):
    keys = {"stage": "contrastive", "model": start, "data": candidates(data), "validation": [data["dev"]]}
    for name in ("mrr@10_fi", "eval_loss", "questions_relevance_kl"):
        recipe = recipe_of("a", **keys, training={"metric_for_best_model": name})
        with pytest.raises(
            ValueError, match=r"expected one of mrr@10_avg, mrr@10_en, mrr@10_xx, questions_loss, questions_c"
        ):
            build_trainer(recipe, build_arguments(recipe))
    for name in ("mrr@10_xx", "eval_questions_contrastive"):
        training = {"metric_for_best_model": name, "max_steps": 1}
        run_stage(recipe_of(name, **keys, training=training))


def test_a_step_that_is_larger_than_the_set_is_said(recipe_of, start, data, caplog):
    recipe = recipe_of(
        "a", stage="contrastive", model=start, data=candidates(data), training={"gradient_accumulation_steps": 8}
    )
    build_trainer(recipe, build_arguments(recipe))
    assert "20 rows, 32 a step: every step holds each row 1.6 times." in caplog.text


def test_an_interrupted_training_says_where_it_stands_and_how_to_go_on(recipe_of, start, data, monkeypatch, caplog):
    step, begun = Trainer.training_step, []

    def interrupted(*arguments, **keywords):
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return step(*arguments, **keywords)

    monkeypatch.setattr(Trainer, "training_step", interrupted)
    recipe = recipe_of("a", stage="contrastive", model=start, data=candidates(data), training={"save_steps": 1})
    with pytest.raises(KeyboardInterrupt):
        run_stage(recipe)
    assert "stopped after 2 of 3 steps. Give the same command again to go on from checkpoint-2." in caplog.text


def test_a_run_of_epochs_keeps_the_best_of_them(recipe_of, start, data):
    training = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 10}
    settings = candidates(data, dev_texts=0)
    recipe = recipe_of(
        "a", stage="contrastive", model=start, data=settings, training=training, validation=[data["dev"]]
    )
    run_stage(recipe)
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_mrr@10_avg"] for line in log if "eval_mrr@10_avg" in line}
    assert list(measured) == [2, 4]  # twenty rows in batches of ten
    best = json.loads((recipe.folder / "run.json").read_text())["best_checkpoint"]
    assert measured[int(best.rpartition("-")[2])] == max(measured.values())


def test_a_question_that_two_ask_is_scored_for_both(tiny_model, data):
    entry = {key: data["dev"][key] for key in ("questions", "passages")}
    found = read_jsonl(**entry)
    run = search_questions(tiny_model, found, encode_passages(tiny_model, found), reads="english")
    scores = per_query_scores(run, found.qrels)["RR@10"]
    assert set(scores) == set(found.languages)
    assert all(scores[f"{letter}-xx"] == scores[f"{letter}-en"] for letter in "lmn")
    assert all(0 <= score <= 1 for score in scores.values())


def set_of(tmp_path, name, texts):
    """An entry whose one question asks for the first of the passages `{document_id: text}`."""

    def jsonl(kind, rows):
        path = tmp_path / f"{name}-{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    passages = [{"document_id": document_id, "text": text} for document_id, text in texts.items()]
    asked = {"query_id": name, "query": "a", "english": "a", "language": "en", "document_ids": [next(iter(texts))]}
    return {
        "format": "jsonl",
        "questions": jsonl("asked", [asked]),
        "passages": jsonl("passages", passages),
        "name": name,
    }


def test_distractors_are_searched_too_and_never_replace_a_passage(data, tmp_path):
    own = dict(read_validation(data["dev"]).passages)
    name, text = next(iter(own.items()))
    far = set_of(tmp_path, "far", {"far": "a distractor", name: text})
    found = read_validation({**data["dev"], "distractors": [far]})
    assert dict(found.passages) == {**own, "far": "a distractor"}
    assert found.qrels == read_validation(data["dev"]).qrels
    other = set_of(tmp_path, "other", {"p1": "a distractor", name: "another text"})
    with pytest.raises(
        ValueError, match=f"passage '{name}': expected one text, got one in 'dev' and another in 'other'"
    ):
        read_validation({**data["dev"], "distractors": [far, other]})


@pytest.mark.parametrize("place", ["questions", "corpus"])
def test_one_id_with_two_texts_is_refused(place, recipe_of, start, data, tmp_path):
    first, second = (set_of(tmp_path, name, {"p1": f"the king of {name}"}) for name in "bc")
    same = {**first, "name": "again"}  # the same passage in two sets is no contradiction
    settings = {"parallel": [data["parallel"]], "questions": [first, same], "dev_texts": 0}
    settings[place] = [*settings.get(place, []), second]
    recipe = recipe_of("a", stage="representation", model=start, data=settings)
    with pytest.raises(ValueError, match=r"passage 'p1': .* got one in 'b' and another in 'c'.*`name:`"):
        prepare_sets(recipe, None, seed=0)
    settings[place].pop()
    assert prepare_sets(
        recipe_of("a", **{"stage": "representation", "model": start, "data": settings}), None, 0
    ).passages == {"p1": "the king of b"}
