"""Captions made from labels, where a site has no reports: a target of stage A on training rows, never an input.

Shapes: N records, Y labels.
"""

import torch
from torch import Tensor

from medvlmoe.data.dataset import SiteDataset
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.tokenizer import Tokenizer


def captions_of(labels_NY: Tensor, space: LabelSpace) -> list[str]:
    """``Effusion, Edema.`` for each record, in the order of the labels; ``No finding.`` where none is positive.

    Unknown labels are not spoken of; a soft target counts as positive from 0.5 on.
    """
    names = [label.rpartition("/")[2].replace("_", " ") for label in space.labels]
    rows = (labels_NY.nan_to_num(0.0) >= 0.5).tolist()
    spoken = ([name for name, positive in zip(names, row, strict=True) if positive] for row in rows)
    return [f"{', '.join(found)}." if found else "No finding." for found in spoken]


def with_captions(dataset: SiteDataset, tokenizer: Tokenizer, max_tokens: int) -> SiteDataset:
    """The same records, each with the caption of its labels as its text."""
    captions = captions_of(dataset.labels_NY, dataset.label_space)
    different = sorted(set(captions))
    number_of = {caption: number for number, caption in enumerate(different)}
    text_of_N = torch.tensor([number_of[caption] for caption in captions])
    return dataset.with_texts(tokenizer.encode(different, max_tokens), text_of_N)
