"""A finished model read from its file, which holds its own description."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medvlmoe import stamps
from medvlmoe.baselines import BaselineConfig
from medvlmoe.configuration import from_mapping
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import TensorFile
from medvlmoe.model.config import MedVLMoEConfig


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What ``final.safetensors`` of a run says about its model.

    Attributes:
        path: the file.
        config: the architecture; of a comparison model its images, its tokenizer and the encoders that it may share.
        label_space: rows of the head.
        stamps: of the data that it was trained on.
        baseline: what else decides a comparison model; ``None`` for MedVLMoE.
        parameters: how many it has; ``None`` where the file does not tell.
    """

    path: Path
    config: MedVLMoEConfig
    label_space: LabelSpace
    stamps: list[str]
    baseline: BaselineConfig | None = None
    parameters: int | None = None

    @property
    def reads_text(self) -> bool:
        """Whether a prediction depends on the text of a record."""
        return (self.config if self.baseline is None else self.baseline).reads_text

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
        baseline, parameters = metadata.get("baseline"), metadata.get("parameters")
        try:
            return cls(
                path=path,
                config=from_mapping(MedVLMoEConfig, json.loads(metadata["model"])),
                label_space=LabelSpace.from_dict(json.loads(metadata["label_space"])),
                stamps=stamps.in_order(json.loads(metadata.get("stamps", "[]"))),
                baseline=None if baseline is None else from_mapping(BaselineConfig, json.loads(baseline)),
                parameters=None if parameters is None else int(parameters),
            )
        except (ConfigError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: its description cannot be read ({error}); is it of this version?"
            ) from error

    def load(self) -> nn.Module:
        """The model with its weights, on the CPU.

        Raises:
            CheckpointError: the tensors are not those of the described model.
        """
        from medvlmoe.model.memory import finish_filling  # here: who only describes needs no encoder libraries

        model = self._empty()  # the file has all values, so no weights are drawn
        try:
            model.load_state_dict(dict(TensorFile(self.path)), assign=True)
            finish_filling(model)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: its tensors are not those of the model it describes; copy it again"
            ) from error
        return model

    def _empty(self) -> nn.Module:
        if self.baseline is None:
            from medvlmoe.model.medvlmoe import empty_model

            return empty_model(self.config, len(self.label_space))
        from medvlmoe.baselines.build import empty_baseline

        return empty_baseline(self.baseline, self.config, len(self.label_space))
