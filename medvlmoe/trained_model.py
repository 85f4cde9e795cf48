"""A finished model read from its file, which holds its own description."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvlmoe import stamps
from medvlmoe.configuration import from_mapping
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import TensorFile
from medvlmoe.model.config import MedVLMoEConfig

if TYPE_CHECKING:
    from medvlmoe.model.medvlmoe import AnyMedVLMoE


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What ``final.safetensors`` of a run says about its model.

    Attributes:
        path: the file.
        config: the architecture.
        label_space: rows of the head.
        stamps: of the data that it was trained on.
    """

    path: Path
    config: MedVLMoEConfig
    label_space: LabelSpace
    stamps: list[str]

    @classmethod
    def describe(cls, path: Path) -> "TrainedModel":
        """Read the description only.

        Raises:
            CheckpointError: the file is missing, damaged, or no finished model.
        """
        path = path.expanduser()
        metadata = TensorFile(path).metadata()
        if "model" not in metadata or "label_space" not in metadata:
            raise CheckpointError(
                f"{path} is not a finished model (no description in it); take final.safetensors of a run's checkpoints"
            )
        try:
            return cls(
                path=path,
                config=from_mapping(MedVLMoEConfig, json.loads(metadata["model"])),
                label_space=LabelSpace.from_dict(json.loads(metadata["label_space"])),
                stamps=stamps.in_order(json.loads(metadata.get("stamps", "[]"))),
            )
        except (ConfigError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: its description cannot be read ({error}); is it of this version?"
            ) from error

    def load(self) -> "AnyMedVLMoE":
        """The model with its weights, on the CPU.

        Raises:
            CheckpointError: the tensors are not those of the described model.
        """
        from medvlmoe.model.medvlmoe import empty_model  # here: who only describes needs no encoder libraries
        from medvlmoe.model.memory import finish_filling

        model = empty_model(self.config, len(self.label_space))  # the file has all values, so no weights are drawn
        try:
            model.load_state_dict(dict(TensorFile(self.path)), assign=True)
            finish_filling(model)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: its tensors are not those of the model it describes; copy it again"
            ) from error
        return model
