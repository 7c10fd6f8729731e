"""What FSDP would wait for without end is refused before it begins."""

import pytest

from drdecr.data.mixture import MixedSet
from drdecr.trainers.adapters import add_adapter
from drdecr.trainers.checks import check_pushed_state, check_sharding

ROWS = [{"query": str(number)} for number in range(4)]


def test_fsdp_refuses_a_validation():
    with pytest.raises(ValueError, match=r"FSDP: expected no validation.*`eval_strategy: no`"):
        check_sharding(None, lambda model: {"mrr": 0.5}, ROWS)


def test_fsdp_refuses_a_mixture_and_takes_one_set_of_it():
    with pytest.raises(ValueError, match="FSDP: expected rows of one set, got a mixture of a, b"):
        check_sharding(None, None, MixedSet({"a": ROWS, "b": ROWS}, 2, 4))
    check_sharding(None, None, MixedSet({"a": ROWS}, 2, 4))
    check_sharding(None, None, ROWS)


def test_fsdp_refuses_an_adapter_that_it_would_save_a_share_of(tiny_model):
    with pytest.raises(ValueError, match="FSDP: expected a whole model to train, got one with LoRA"):
        check_sharding(add_adapter(tiny_model), None, ROWS)


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
@pytest.mark.parametrize("library", ["FSDP", "DeepSpeed"])
def test_a_state_that_no_push_could_hold_is_refused(strategy, library):
    how = {"fsdp": library == "FSDP", "deepspeed": library == "DeepSpeed"}
    with pytest.raises(ValueError, match=rf"{library}: expected .* got {strategy}, .*`hub_strategy: every_save`"):
        check_pushed_state(strategy, **how)
    check_pushed_state("every_save", **how)
    check_pushed_state(strategy, fsdp=False, deepspeed=False)
