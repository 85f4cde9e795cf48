"""The global model at the server: what travels, what is frozen, and how it is saved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medvlmoe.configuration import to_mapping
from medvlmoe.data.labels import LabelSpace
from medvlmoe.files import LayeredTensors, TensorFile
from medvlmoe.model.config import MedVLMoEConfig
from strategies.exchange import exchanged_tensors, frozen_sums

if TYPE_CHECKING:
    from medvlmoe.model import AnyMedVLMoE


@dataclass(kw_only=True)
class GlobalModel:
    """Parameters of the global model.

    Attributes:
        config: architecture, with the normalisation of images that goes with its weights.
        label_space: rows of the head.
        exchanged: tensors that travel and are merged; in memory, or read from a checkpoint one by one.
        fixed: the rest of the model's state (frozen encoders), likewise.
    """

    config: MedVLMoEConfig
    label_space: LabelSpace
    exchanged: Mapping[str, torch.Tensor]
    fixed: Mapping[str, torch.Tensor]

    @classmethod
    def initial(cls, config: MedVLMoEConfig, label_space: LabelSpace, seed: int) -> "GlobalModel":
        """The model before the first round; the same for the same seed wherever it is built."""
        from medvlmoe.model import build_model  # here: encoder libraries take memory that a server has no use for

        return cls._of(build_model(config, len(label_space.labels), seed), config, label_space)

    @classmethod
    def to_resume(cls, config: MedVLMoEConfig, label_space: LabelSpace) -> "GlobalModel":
        """The model of a run that goes on: names and shapes, until :meth:`read_from` says where the values are."""
        from medvlmoe.model import empty_model

        return cls._of(empty_model(config, len(label_space.labels)), config, label_space)

    @classmethod
    def _of(cls, model: "AnyMedVLMoE", config: MedVLMoEConfig, label_space: LabelSpace) -> "GlobalModel":
        from medvlmoe.model import with_image_normalisation

        config = replace(config, vision=with_image_normalisation(config.vision))
        exchanged = exchanged_tensors(model)
        fixed = {name: tensor for name, tensor in model.state_dict().items() if name not in exchanged}
        return cls(config=config, label_space=label_space, exchanged=exchanged, fixed=fixed)

    @cached_property
    def frozen_sums(self) -> dict[str, float]:
        """Sum of the frozen parts by parameter group; they never change."""
        return frozen_sums(self.fixed)

    def read_from(self, checkpoint: Path) -> None:
        """Leave the parameters on disk: from now on each is read from ``checkpoint`` when it is asked for.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
        """
        self.exchanged = TensorFile(checkpoint, self.exchanged)
        self.fixed = TensorFile(checkpoint, self.fixed)

    def config_for_sites(self) -> MedVLMoEConfig:
        """The architecture without the weights of encoders that a site receives as a whole: it need not have them."""
        vision, text = self.config.vision, self.config.text
        return replace(
            self.config,
            vision=vision if vision.has_frozen_parts else replace(vision, weights=None),
            text=text if text.has_frozen_parts else replace(text, weights=None),
            moe=replace(self.config.moe, upcycle_from=None),
        )

    def fits(self, checkpoint: Path) -> bool:
        """Whether the tensors of a checkpoint have the shapes of this model's; they are not read.

        Raises:
            CheckpointError: the file is missing, damaged or lacks a tensor.
        """
        wanted = self.state()
        file = TensorFile(checkpoint, wanted)
        return all(file.shape_of(name) == tensor.shape for name, tensor in wanted.items())

    def state(self) -> Mapping[str, torch.Tensor]:
        """The whole model's state."""
        return LayeredTensors(self.fixed, self.exchanged)

    def metadata(self, **more: Any) -> dict[str, str]:
        """What a reader of the checkpoint needs to build the model again (see ``medvlmoe evaluate``)."""
        return {
            "model": json.dumps(to_mapping(self.config)),
            "label_space": json.dumps(self.label_space.to_dict()),
            **{key: json.dumps(value) for key, value in more.items()},
        }
