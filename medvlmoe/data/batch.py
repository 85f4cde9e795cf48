"""One batch of studies. Shape suffixes: B batch, C H W image (volumes: C D H W), L text tokens, Y labels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images, tokens and labels of B records.

    Attributes:
        image_BCHW: float32, normalised; volumes have a fifth axis, B x C x D x H x W.
        input_ids_BL: int64 token ids, padded on the right.
        attention_mask_BL: int64, 1 for a real token.
        labels_BY: float32; 0 or 1, NaN where unknown or not a label of the record's site. Multiclass and ordinal
            labels are one-hot inside their block.
        patient_ids: B patient identifiers.
        study_ids: B study identifiers.
    """

    image_BCHW: Tensor
    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    labels_BY: Tensor
    patient_ids: list[str]
    study_ids: list[str]

    def __len__(self) -> int:
        return self.image_BCHW.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return Batch(
            self.image_BCHW.to(device),
            self.input_ids_BL.to(device),
            self.attention_mask_BL.to(device),
            self.labels_BY.to(device),
            self.patient_ids,
            self.study_ids,
        )
