"""The files in recipes/accelerate are ones that Accelerate reads."""

from importlib.resources import files
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

FILES = {path.stem: path for path in Path(str(files("drdecr.recipes"))).glob("accelerate/*.yaml")}


def test_there_is_one_for_each_way():
    assert set(FILES) == {"cpu", "ddp", "fsdp2", "deepspeed_zero2"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cpu", "MULTI_GPU"), ("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("deepspeed_zero2", "DEEPSPEED")],
)
def test_accelerate_reads_it_and_knows_every_key(name: str, kind: str):
    config = load_config_from_file(str(FILES[name]))
    assert config.distributed_type == kind
    assert str(FILES[name].relative_to(FILES[name].parents[2])) in FILES[name].read_text()  # its first line says how


def test_a_sharded_checkpoint_is_a_whole_model():
    settings = load_config_from_file(str(FILES["fsdp2"])).fsdp_config
    assert (settings["fsdp_version"], settings["fsdp_state_dict_type"]) == (2, "FULL_STATE_DICT")
