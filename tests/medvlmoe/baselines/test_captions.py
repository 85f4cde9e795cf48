import torch

from medvlmoe.baselines.captions import captions_of
from medvlmoe.data.labels import LabelBlock, LabelSpace


def test_captions_name_what_is_positive_and_nothing_else() -> None:
    space = LabelSpace.of(
        "both",
        LabelBlock("findings", "multilabel", ("Pleural_Thickening", "Edema")),
        LabelBlock("tissue", "multiclass", ("tissue/fat", "tissue/mucus")),
    )
    nan = torch.nan
    labels_NY = torch.tensor([[1, 1, nan, nan], [0, nan, nan, nan], [0.6, 0.4, 0, 1], [nan, nan, 1, 0]])
    assert captions_of(labels_NY, space) == [
        "Pleural Thickening, Edema.",
        "No finding.",
        "Pleural Thickening, mucus.",
        "fat.",
    ]
