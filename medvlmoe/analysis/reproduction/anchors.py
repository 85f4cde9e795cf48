"""Published results to hold a number against. None is a target: splits, labels and label policies differ."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published result.

    Attributes:
        kind: layout of the data set.
        auc: per cent.
        system: what reached it.
        setting: what is different or must be the same: split, labels, image size.
        source: where it is published.
        model: the model of the grid that it is a result of; ``None`` for another system.
        size: published resolution that it belongs to, for MedMNIST.
    """

    kind: str
    auc: float
    system: str
    setting: str
    source: str
    model: str | None = None
    size: int | None = None


_MACO = "Nature Communications 2024, s41467-024-51749-0, Table 1"
_MEDMNIST_PLUS = "MedMNIST+ benchmark (arXiv 2404.15786)"

ANCHORS = (
    Anchor(kind="chestxray14", auc=85.9, system="MRM, MaCo", setting="100 % fine-tuning, image only", source=_MACO),
    Anchor(kind="chestxray14", auc=81.3, system="ConVIRT", setting="100 % fine-tuning", source=_MACO, model="convirt"),
    Anchor(kind="chestxray14", auc=81.3, system="GLoRIA", setting="100 % fine-tuning", source=_MACO, model="gloria"),
    Anchor(kind="chestxray14", auc=82.5, system="BioViL", setting="100 % fine-tuning", source=_MACO, model="biovil"),
    Anchor(kind="chestxray14", auc=73.8, system="Wang et al. 2017", setting="official split",
           source="arXiv 1705.02315, mean of its 14 labels"),
    Anchor(kind="chestxray14", auc=84.1, system="CheXNet", setting="random split 70/10/20, not the official one",
           source="arXiv 1711.05225, mean of its 14 labels"),
    Anchor(kind="chestxray14", auc=85.4, system="SynthEnsemble", setting="ensemble", source="arXiv 2311.07750"),
    Anchor(kind="chexpert", auc=88.9, system="MaCo", setting="100 % fine-tuning, image only", source=_MACO),
    Anchor(kind="chexpert", auc=87.3, system="ConVIRT", setting="100 % fine-tuning", source=_MACO, model="convirt"),
    Anchor(kind="chexpert", auc=88.1, system="GLoRIA", setting="100 % fine-tuning", source=_MACO, model="gloria"),
    Anchor(kind="chexpert", auc=93.0, system="leaderboard, best", setting="5 labels, hidden test set, ensembles",
           source="CheXpert competition"),
    Anchor(kind="mimic_cxr", auc=81.6, system="MCX-Net", setting="image and clinical history, 13 labels, macro",
           source="PMC12701160"),
    Anchor(kind="mimic_cxr", auc=74.7, system="ViT-B", setting="image alone, 13 labels, macro", source="PMC12701160"),
    Anchor(kind="mimic_cxr", auc=87.8, system="Jacenkow et al. 2022", setting="image and indication, micro average",
           source="ISBI 2022"),
    Anchor(kind="pathmnist", auc=98.24, system="ResNet-18", setting="28 px", source=_MEDMNIST_PLUS, size=28),
    Anchor(kind="pathmnist", auc=99.79, system="DenseNet-121", setting="224 px", source=_MEDMNIST_PLUS, size=224),
    Anchor(kind="retinamnist", auc=75.4, system="VGG16", setting="28 px, best of the table", source=_MEDMNIST_PLUS,
           size=28),
    Anchor(kind="retinamnist", auc=87.82, system="VGG16", setting="224 px, best of the table", source=_MEDMNIST_PLUS,
           size=224),
)  # fmt: skip
"""The first of a data set is the one to hold any model against that has none of its own."""


def anchor_of(kind: str, model: str, size: int | None = None) -> Anchor | None:
    """The published result that a cell stands beside: the model's own, else the data set's first of that resolution.

    Args:
        kind: layout of the data set.
        model: model of the grid.
        size: published resolution that was read, for MedMNIST; between two, the lower one counts.
    """
    found = [anchor for anchor in ANCHORS if anchor.kind == kind]
    if size is not None:
        sizes = [anchor.size for anchor in found if anchor.size is not None]
        nearest = max([known for known in sizes if known <= size], default=None)
        found = [anchor for anchor in found if anchor.size == nearest]
    own = [anchor for anchor in found if anchor.model == model]
    general = [anchor for anchor in found if anchor.model is None]
    return next(iter([*own, *general]), None)
