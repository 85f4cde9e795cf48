"""What the paper prints: Table 1, Table 2, and the claims of its text that the tables can be held against.

Per cent, with the number behind its ±. Whether that is a t-interval, a normal one or a standard deviation over three
seeds the paper does not say (reading A21). Deltas are computed here, never copied.
"""

from dataclasses import dataclass

from medvlmoe.model.ablations import FULL

SHARED = "_shared"
"""Ending of a baseline's name when it has MedVLMoE's encoders instead of the published ones."""

BENCHMARKS = {
    "chestxray14": "ChestX-ray14",
    "chexpert": "CheXpert",
    "mimic_cxr": "MIMIC-CXR",
    "pathmnist": "PathMNIST",
    "retinamnist": "RetinaMNIST",
}
"""Name in the paper by layout of the files, in the order of its columns."""


@dataclass(frozen=True)
class PaperValue:
    """One printed number, per cent.

    Attributes:
        auc: the value.
        plus_minus: the number behind ±.
    """

    auc: float
    plus_minus: float

    def __str__(self) -> str:
        return f"{self.auc:.1f} ± {self.plus_minus:.1f}"


def _row(*values: tuple[float, float]) -> dict[str, PaperValue]:
    return {kind: PaperValue(*value) for kind, value in zip(BENCHMARKS, values, strict=True)}


TABLE1 = {
    "convirt": _row((81.3, 0.6), (83.9, 0.7), (80.1, 0.8), (85.4, 0.9), (83.2, 0.7)),
    "biovil": _row((83.7, 0.5), (85.4, 0.6), (82.5, 0.7), (87.1, 0.7), (84.9, 0.6)),
    "gloria": _row((82.5, 0.6), (84.7, 0.7), (81.8, 0.8), (86.3, 0.8), (83.8, 0.7)),
    "clip_med": _row((83.1, 0.5), (85.6, 0.6), (82.4, 0.7), (88.3, 0.6), (86.5, 0.5)),
    "biobert_vqa": _row((79.8, 0.7), (81.2, 0.8), (78.9, 0.9), (84.6, 0.8), (82.1, 0.7)),
    FULL: _row((89.3, 0.4), (91.2, 0.3), (88.7, 0.5), (94.1, 0.3), (92.8, 0.4)),
}
"""Table 1 by model and layout, in the order of its rows."""

TABLE2 = {
    FULL: PaperValue(89.3, 0.4),
    "single_ffn": PaperValue(86.1, 0.5),
    "no_fusion": PaperValue(84.7, 0.6),
    "no_biogpt": PaperValue(83.2, 0.6),
    "vision_only": PaperValue(81.5, 0.7),
}
"""Table 2 (ChestX-ray14) by model."""

TITLES = {
    "convirt": "ConVIRT",
    "biovil": "BioViL",
    "gloria": "GLoRIA",
    "clip_med": "CLIP-Med",
    "biobert_vqa": "BioBERT-VQA",
    FULL: "MedVLMoE",
}


def delta_to(model: str, kind: str) -> float:
    """MedVLMoE minus a model in the paper's Table 1, points of AUC."""
    return round(TABLE1[FULL][kind].auc - TABLE1[model][kind].auc, 1)


def best_baseline(kind: str) -> str:
    """The baseline with the paper's highest value on a benchmark."""
    return max((name for name in TABLE1 if name != FULL), key=lambda name: TABLE1[name][kind].auc)
