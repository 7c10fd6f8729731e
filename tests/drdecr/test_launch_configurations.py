"""The files in recipes/accelerate are ones that Accelerate reads."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

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


def launched_with(configuration: dict[str, Any], path: Path) -> list[str]:
    """Return what `accelerate launch` hands to the processes that it starts with a configuration."""
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    read = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    arguments, defaults, _ = _validate_launch_command(read)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)  # as `launch_command` does
    environment = (
        prepare_deepspeed_cmd_env(arguments)[1] if arguments.use_deepspeed else prepare_multi_gpu_env(arguments)
    )
    return list(environment.values())


def unread_keys(configuration: dict[str, Any], section: str, path: Path) -> list[str]:
    """Return the keys of a section that make no difference: a value in them reaches no process."""

    def marked(key: str) -> dict[str, Any]:
        return {**configuration, section: {**configuration[section], key: "this one"}}

    return [key for key in configuration[section] if "this one" not in launched_with(marked(key), path)]


@pytest.mark.parametrize(("name", "section"), [("fsdp2", "fsdp_config"), ("deepspeed_zero2", "deepspeed_config")])
def test_every_key_of_a_section_reaches_the_processes(name: str, section: str, tmp_path: Path):
    configuration = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    assert len(configuration[section]) >= 6
    assert unread_keys(configuration, section, tmp_path / "read.yaml") == []
    for key in list(configuration[section]):
        misspelt = {other if other != key else f"{key}s": value for other, value in configuration[section].items()}
        assert unread_keys({**configuration, section: misspelt}, section, tmp_path / "misspelt.yaml") == [f"{key}s"]


def test_a_sharded_checkpoint_is_a_whole_model():
    settings = load_config_from_file(str(FILES["fsdp2"])).fsdp_config
    assert (settings["fsdp_version"], settings["fsdp_state_dict_type"]) == (2, "FULL_STATE_DICT")
