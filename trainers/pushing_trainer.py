"""A `transformers.Trainer` whose pushes are whole, without pickles, and tell what the Hub refuses in one line."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from drdecr.data.hub_repositories import make_repository
from drdecr.modeling_drdecr.hub_errors_drdecr import explain, explained, without_tokens
from drdecr.modeling_drdecr.pushing_drdecr import hub_name

from .arguments import DistillationArguments
from .compatibility import check_pushed_state
from .pushing import LAST, push_folder, push_staged, stage_checkpoint, sweep_staged, write_training_card
from .training_state import unpack_state

logger = logging.get_logger(__name__)


class PushingTrainer(Trainer):
    """What `DistillationTrainer` does on the Hub: create the repository, push while it trains and at the end, resume."""

    args: DistillationArguments  # type: ignore[assignment]

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer` does; also from a checkpoint that was pushed, whose state is in safetensors."""
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            with self.args.main_process_first():
                unpack_state(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Create the repository that is pushed to; what fails is said in one line, before anything is trained."""
        check_pushed_state(self.args.hub_strategy, self.is_fsdp_enabled, self.is_deepspeed_enabled)
        token = kwargs.get("token") or self.args.hub_token
        with explained(self.args.hub_model_id, token):
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
        base = next((found.base_model_name_or_path for found in adapters.values()), student.config._name_or_path)
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
        self._tell_failed_pushes()
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
        self._tell_failed_pushes()

    def _tell_failed_pushes(self) -> None:
        """Say which uploads failed, each once, and forget those that are done."""
        push = getattr(self, "push_in_progress", None)
        if push is None:
            return
        done = [job for job in push.jobs if job.done()]
        push.jobs = [job for job in push.jobs if job not in done]
        for error in (job.exception() for job in done if not job.cancelled()):
            if error is not None:
                token = self.args.hub_token
                told = explain(error, token=token) or without_tokens(str(error), token)
                logger.warning(f"An upload during the training failed. {told}")
