"""A small model and a small dataset that stand in for the real ones, where other processes can import them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelBlock, LabelSpace

MIXED = LabelSpace.of(
    "mixed",
    LabelBlock("findings", "multilabel", ("Effusion", "Mass", "Hernia")),
    LabelBlock("grade", "ordinal", ("grade/0", "grade/1", "grade/2")),
    LabelBlock("tissue", "multiclass", ("tissue/fat", "tissue/mucus")),
)


@dataclass
class Output:
    logits_BY: Tensor
    auxiliary_loss: Tensor


class StandInExperts(nn.Module):
    """Three experts; each row goes to one of the first two, so that the third is always idle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 3, bias=False)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, fused_BF: Tensor) -> tuple[Tensor, Tensor]:
        probabilities_BK = self.router(fused_BF.float()).softmax(dim=1)
        chosen_B = probabilities_BK[:, :2].argmax(dim=1)
        result_BF = torch.zeros_like(fused_BF)
        for k in range(2):
            rows = (chosen_B == k).nonzero().flatten()
            if len(rows):
                weighted = self.experts[k](fused_BF[rows]) * probabilities_BK[rows, k, None]
                result_BF = result_BF.index_add(0, rows, weighted.to(fused_BF.dtype))
        return result_BF, 0.01 * (probabilities_BK.mean(dim=0) ** 2).sum()


class StandInModel(nn.Module):
    def __init__(self, label_count: int, dropout: float, auxiliary: bool, batch_norm: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8)
        self.vision = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), norm, nn.ReLU(), nn.Flatten(1), nn.Linear(72, 8))
        self.text = nn.Embedding(8, 8)
        self.fusion = nn.Sequential(nn.LayerNorm(8), nn.Dropout(dropout))
        self.moe = StandInExperts(8)
        self.head = nn.Linear(8, label_count)
        self.auxiliary = auxiliary

    def forward(self, image_BCHW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Output:
        mask_BL1 = attention_mask_BL.unsqueeze(-1)
        words_BF = (self.text(input_ids_BL) * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)
        fused_BF = self.fusion(self.vision(image_BCHW) + words_BF)
        mixed_BF, balance = self.moe(fused_BF)
        logits_BY = self.head(fused_BF + mixed_BF)
        return Output(logits_BY=logits_BY, auxiliary_loss=balance * self.auxiliary)


@dataclass
class MemoryDataset:
    images: Tensor
    tokens: Tensor
    labels_NY: Tensor
    patient_ids: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        patients = [self.patient_ids[index] for index in indices]
        tokens = self.tokens[indices]
        return Batch(
            self.images[indices], tokens, torch.ones_like(tokens), self.labels_NY[indices], patients, list(patients)
        )


def make_rows(rows: int, seed: int = 0, noise: float = 0.5) -> MemoryDataset:
    """Rows of three sites: findings, grades, tissues; each row knows the block of its site only."""
    generator = torch.Generator().manual_seed(seed)
    hidden_N = torch.rand(rows, generator=generator)
    images = hidden_N[:, None, None, None] * torch.linspace(-1, 1, 8).expand(rows, 1, 8, 8)
    images = images + noise * torch.randn(rows, 1, 8, 8, generator=generator)
    labels = torch.full((rows, len(MIXED)), torch.nan)
    site = torch.arange(rows) % 3
    draws = torch.rand(rows, 3, generator=generator)
    labels[:, :3] = torch.where((site == 0)[:, None], (draws < hidden_N[:, None]).float(), torch.nan)
    labels[:, 2] = torch.where(draws[:, 0] < 0.3, torch.nan, labels[:, 2])
    labels[site == 1, 3:6] = torch.eye(3)[(hidden_N * 3).long().clamp(max=2)][site == 1]
    labels[site == 2, 6:8] = torch.eye(2)[(hidden_N > 0.5).long()][site == 2]
    tokens = torch.randint(0, 8, (rows, 5), generator=generator)
    return MemoryDataset(images, tokens, labels, [f"patient{row // 2}" for row in range(rows)])
