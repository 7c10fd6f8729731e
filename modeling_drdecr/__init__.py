"""The model that travels to the Hub: configuration, processor, student and teacher.

Importing this package registers the classes with AutoConfig, AutoModel and AutoProcessor, and makes every
`save_pretrained` write the modelling code beside the weights, so that a checkpoint opens with `trust_remote_code=True`
where the package is absent.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_drdecr import DrDecrConfig
from .encoding_drdecr import PackedEmbeddings, pack_embeddings, pad_embeddings
from .modeling_drdecr import DrDecrModel, DrDecrOutput, DrDecrPreTrainedModel, DrDecrTeacher
from .processing_drdecr import DrDecrProcessor
from .scoring_drdecr import maxsim, maxsim_candidates

AutoConfig.register(DrDecrConfig.model_type, DrDecrConfig, exist_ok=True)
AutoModel.register(DrDecrConfig, DrDecrModel, exist_ok=True)
AutoProcessor.register(DrDecrConfig, DrDecrProcessor, exist_ok=True)
DrDecrConfig.register_for_auto_class()
DrDecrModel.register_for_auto_class("AutoModel")
DrDecrTeacher.register_for_auto_class("AutoModel")

__all__ = [
    "DrDecrConfig",
    "DrDecrModel",
    "DrDecrOutput",
    "DrDecrPreTrainedModel",
    "DrDecrProcessor",
    "DrDecrTeacher",
    "PackedEmbeddings",
    "maxsim",
    "maxsim_candidates",
    "pack_embeddings",
    "pad_embeddings",
]
