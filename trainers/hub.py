"""A Trainer's pushes: a checkpoint that loads, a card that is true, in one commit and without pickles."""

import os
import shutil
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from drdecr.modeling_drdecr.hub_drdecr import (
    PICKLES,
    REPLACED,
    TAGS,
    commit_files,
    explain_hub_error,
    hub_errors,
    hub_name,
    is_model_file,
    list_folder_files,
    make_repository,
    matches_root,
    without_tokens,
)

from .adapters import check_base
from .arguments import DistillationArguments
from .checkpoints import STATE_FILES, find_damage, newest_whole_checkpoint, pack_state, unpack_state
from .checks import check_pushed_state

Staged = tempfile.TemporaryDirectory[str]

LAST = "last-checkpoint"
"""Folder of the newest checkpoint in a repository; the Trainer's own name for it."""

STAGED = ".push-"
"""How the folders begin in which a checkpoint is set aside."""


def stage_checkpoint(checkpoint: str | Path, beside: str | Path, copy_to: str | None = None) -> Staged:
    """Set a checkpoint aside for a push, as links: the training may delete it before the push has read it.

    Args:
        checkpoint: its folder.
        beside: an existing folder of the same disk.
        copy_to: name of a folder in the repository that takes all of the checkpoint too, to resume from; its pickles
            become safetensors in the push (`pack_state`).

    Returns:
        The folder, laid out as the repository will be.
    """
    staged = tempfile.TemporaryDirectory(dir=beside, prefix=STAGED)
    for path in Path(checkpoint).iterdir():
        is_state = path.name.startswith((*STATE_FILES, "trainer_state.json"))
        is_model = path.is_file() and path.suffix != ".md" and not is_state and path.name != "training_args.bin"
        is_part = path.is_dir() and any((path / name).exists() for name in ("config.json", "adapter_config.json"))
        if is_model or is_part:
            _link(path, Path(staged.name) / path.name)
        if copy_to and (is_model or is_part or (is_state and path.is_file())):
            _link(path, Path(staged.name) / copy_to / path.name)
    return staged


def sweep_staged(beside: str | Path) -> None:
    """Remove what a training that was killed had set aside: its links hold the room of checkpoints long deleted."""
    for folder in Path(beside).glob(f"{STAGED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def push_staged(api: HfApi, staged: Staged, repository: str, message: str, revision: str | None = None) -> Any:
    """Push what was set aside, and remove it, however the push ends."""
    with staged as folder:
        for state in Path(folder).glob("*/trainer_state.json"):
            pack_state(state.parent)
        return push_folder(api, folder, repository, message, revision, is_staged_file)


def is_staged_file(name: PurePosixPath) -> bool:
    """Whether a file is part of the model, or of a checkpoint that was set aside with it to resume from."""
    is_set_aside = name.parts[0] == LAST or fnmatch(name.parts[0], "checkpoint-*")
    if not is_set_aside or len(name.parts) == 1:
        return is_model_file(name)
    inside = name.relative_to(name.parts[0])
    is_state = inside.name.startswith(STATE_FILES) and inside.suffix == ".safetensors"
    return is_model_file(inside) or inside.name == "trainer_state.json" or is_state


def push_folder(
    api: HfApi,
    folder: str | Path,
    repository: str,
    message: str | None,
    revision: str | None = None,
    is_pushed: Callable[[PurePosixPath], bool] = is_model_file,
) -> Any:
    """Push a folder in one commit, in place of the model that stands in the repository's root.

    Folders of the repository stay as they are, but for `last-checkpoint/` where a newer one is pushed.

    Args:
        api: of who pushes.
        folder: a whole model or adapter.
        repository: `user/name`.
        message: of the commit.
        revision: branch; default `main`.
        is_pushed: tells by a relative path whether a file goes; default: the model's own.

    Returns:
        The commit.

    Raises:
        HubError: if the Hub refuses, cannot be reached, or another's commit came in between.
    """
    files = list_folder_files(folder, is_pushed)
    in_root = matches_root(REPLACED if "config.json" in files else PICKLES)
    has_state = (Path(folder) / LAST).exists()
    with hub_errors(repository):
        return commit_files(
            api,
            repository,
            files,
            message,
            lambda name: in_root(name) or (has_state and name.startswith(f"{LAST}/")),
            revision=revision,
        )


def _link(source: Path, target: Path) -> None:
    """Link a file, or those of a folder, or copy them where the disk knows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: Any, target: Any) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_training_card(
    folder: str | Path, args: Any, base_model: str | None, log: list[dict[str, Any]], library: str = "transformers"
) -> None:
    """Write a card that says what a training knows of itself: the loss terms, their weights and where they stand.

    Args:
        folder: that it is written into, as `README.md`.
        args: a `DistillationArguments`.
        base_model: Hub name of the model that was trained, if it has one.
        log: the Trainer's `log_history`.
        library: transformers (default), or peft for an adapter.
    """
    data = ModelCardData(
        library_name=library,
        pipeline_tag="sentence-similarity",
        tags=TAGS,
        base_model=base_model,
    )
    last: dict[str, Any] = next((line for line in reversed(log) if "loss" in line), {})
    terms = [f"| {term} | {weight:g} | {last.get(term, '')} |" for term, weight in args.term_weights.items()]
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        "# ColBERT student\n" if library == "transformers" else "# Adapter of a ColBERT student\n",
        "Trained with drdecr. `AutoModel.from_pretrained(..., trust_remote_code=True)` opens it; `encode_queries`,",
        "`encode_documents` and `score` search with it.\n",
        "| loss term | weight | last value |\n|---|---|---|",
        *terms,
        "",
        *([f"After {last['step']} steps. It has not been evaluated on a test set."] if "step" in last else []),
    ]
    ModelCard("\n".join(lines) + "\n").save(Path(folder) / "README.md")


logger = logging.get_logger(__name__)


class PushingTrainer(Trainer):
    """What `DistillationTrainer` does on the Hub: create the repository, push while it trains and at the end, resume."""

    args: DistillationArguments  # type: ignore[assignment]

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer` does; True resumes from the newest checkpoint that is whole, also one that was pushed.

        Raises:
            ValueError: where no checkpoint is whole, or for one that is named and damaged.
        """
        has_state = not self.args.save_only_model
        if resume_from_checkpoint is True:
            output = Path(str(self.args.output_dir))
            resume_from_checkpoint = newest_whole_checkpoint(output, has_state=has_state)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"resume_from_checkpoint: expected a whole checkpoint in {output}, got none. Leave it out."
                )
        elif isinstance(resume_from_checkpoint, str | os.PathLike):
            damage = find_damage(Path(resume_from_checkpoint), has_state=has_state)
            if damage is not None:
                raise ValueError(
                    f"{resume_from_checkpoint}: {damage}. Delete it and resume from the one before: "
                    "`resume_from_checkpoint=True` takes the newest whole one."
                )
        if resume_from_checkpoint:
            with self.args.main_process_first():
                unpack_state(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Create the repository that is pushed to; what fails is said in one line, before anything is trained."""
        check_pushed_state(self.args.hub_strategy, self.is_fsdp_enabled, self.is_deepspeed_enabled)
        for adapter in getattr(self.model, "peft_config", {}).values():
            check_base(adapter.base_model_name_or_path)  # nobody else could open what is pushed
        token = kwargs.get("token") or self.args.hub_token
        with hub_errors(self.args.hub_model_id, token):
            super().init_hf_repo(*args, **kwargs)
            if self.is_world_process_zero():
                sweep_staged(str(self.args.output_dir))
                self._api = HfApi(token=token)
                if self.args.hub_private_repo:
                    make_repository(self._api, str(self.hub_model_id), private=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write a card of what this training knows; the Trainer's own names no base model and guesses hardware."""
        if self.is_world_process_zero():
            self._write_card(str(self.args.output_dir))

    def _write_card(self, folder: str) -> None:
        student: Any = self.accelerator.unwrap_model(self.model)
        adapters = getattr(student, "peft_config", {})
        base = next((adapter.base_model_name_or_path for adapter in adapters.values()), student.config._name_or_path)
        library = "peft" if adapters else "transformers"
        write_training_card(folder, self.args, hub_name(str(base)), self.state.log_history, library)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push the model with its card, in one commit and without pickles; arguments are those of `Trainer`.

        Raises:
            HubError: if the Hub refuses, cannot be reached, or another's commit came in between.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        where = (str(self.hub_model_id), commit_message, revision or self.args.hub_revision)
        api = self._api if token is None else HfApi(token=token)
        if blocking:
            return push_folder(api, str(self.args.output_dir), *where)
        return api.run_as_future(push_folder, api, str(self.args.output_dir), *where)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background, so that it loads: the Trainer's own push leaves out what is not weights."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        push = getattr(self, "push_in_progress", None)  # the Trainer gives it to the main process alone
        is_left_out = push is not None and not push.is_done() and not self.args.hub_always_push
        if not self.is_world_process_zero() or is_left_out:
            return
        self._report_failed_pushes()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        place = {HubStrategy.CHECKPOINT: LAST, HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name}
        copy_to = place.get(HubStrategy(self.args.hub_strategy))
        staged = stage_checkpoint(checkpoint_folder, str(self.args.output_dir), copy_to)
        self._write_card(staged.name)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        message, name = f"Training in progress, {when}", str(self.hub_model_id)
        job = self._api.run_as_future(push_staged, self._api, staged, name, message, self.args.hub_revision)
        running = push.jobs if push is not None else []
        self.push_in_progress = PushInProgress([*running, job])  # type: ignore[assignment, arg-type]  # as the Trainer does

    def _finish_current_push(self) -> None:
        """Wait for uploads, and say which failed: a lost connection ends no training."""
        super()._finish_current_push()
        self._report_failed_pushes()

    def _report_failed_pushes(self) -> None:
        """Say which uploads failed, each once, and forget those that are done."""
        push = getattr(self, "push_in_progress", None)
        if push is None:
            return
        done = [job for job in push.jobs if job.done()]
        push.jobs = [job for job in push.jobs if job not in done]
        for error in (job.exception() for job in done if not job.cancelled()):
            if error is not None:
                token = self.args.hub_token
                reason = explain_hub_error(error, token=token) or without_tokens(str(error), token)
                logger.warning(f"An upload during the training failed. {reason}")
