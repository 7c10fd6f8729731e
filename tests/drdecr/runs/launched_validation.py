"""What test_validation.py starts, in one process and in two: `launched_validation.py RECIPE`; prints one JSON line."""

import json
import sys
import time

import torch.distributed
from accelerate import PartialState

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs import candidates as kept_candidates
from drdecr.runs.model_loading import load_student
from drdecr.runs.recipe import load_recipe
from drdecr.runs.training_data import prepare_sets
from drdecr.runs.validation import Validation


def main() -> None:
    state = PartialState(cpu=True)
    recipe = load_recipe(sys.argv[1])
    read: dict[str, int] = {}
    for name in ("encode_queries", "encode_documents"):
        whole = getattr(DrDecrModel, name)

        def counted(model, texts, whole=whole, name=name, **kwargs):
            read[name] = read.get(name, 0) + len(texts)
            return whole(model, texts, **kwargs)

        setattr(DrDecrModel, name, counted)
    figures = Validation(recipe, None)(load_student(recipe))
    line = {"process": state.process_index, "processes": state.num_processes, "figures": figures, "read": dict(read)}
    if recipe.data.unlabelled_queries:
        searched = []
        search = kept_candidates.retrieve_candidates
        kept_candidates.retrieve_candidates = lambda *given, **named: searched.append(1) or search(*given, **named)
        line["candidates"] = prepare_sets(recipe, load_student(recipe), seed=0).rows["unlabelled_queries"].to_list()
        line["searched"] = len(searched)
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        time.sleep(0.2)  # gloo's threads hang at exit without it (pytorch #190489)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
