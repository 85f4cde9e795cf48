"""From a site's configuration to a data set. Shape suffixes: N records, U different texts, Y labels, L tokens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medvlmoe.data.augmentation import NONE
from medvlmoe.data.cache import decoded_images
from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.dataset import SiteDataset
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.registry import load_index, site_modality
from medvlmoe.data.mapped_images import MappedImages
from medvlmoe.data.patient_data import warn_of_patient_data
from medvlmoe.data.split import SPLITS
from medvlmoe.data.tokenizer import Tokenizer
from medvlmoe.errors import ConfigError, DataError

UNREADABLE = "unreadable image"


def build_dataset(
    config: DatasetConfig,
    split: str,
    *,
    label_space: LabelSpace,
    image_size: int,
    image_depth: int | None = None,
    tokenizer: Tokenizer,
    max_tokens: int,
    cache: Path,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    channels: int = 3,
    data_root: str | Path | None = None,
    workers: int | None = None,
) -> SiteDataset:
    """One split of a site, ready to train or evaluate on. Decodes the images if the cache does not hold them.

    Args:
        config: the site's data.
        split: ``train``, ``validation`` or ``test``.
        label_space: the federation's space (the union of its sites' spaces).
        image_size: width and height of the model's images.
        image_depth: slices of the model's volumes; ``None`` for flat images.
        tokenizer: see :func:`medvlmoe.data.load_tokenizer`.
        max_tokens: longest text, in tokens.
        cache: folder of decoded images.
        mean: the backbone's mean in 0..1, one value or one for each channel.
        std: the backbone's standard deviation.
        channels: channels of the model's images, 1 or 3; grey images are repeated.
        data_root: folder that the site's relative root is taken from.
        workers: threads that decode; ``None`` takes every core this process may use.

    Raises:
        DataError: files are missing or malformed, or the split is empty.
        ConfigError: the configuration contradicts the files or the label space.
    """
    if split not in SPLITS:
        raise ConfigError(f"split '{split}': use one of {', '.join(SPLITS)}")
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels}: use 1 or 3")
    index = load_index(config, data_root)
    warn_of_patient_data(index, Path(cache))
    index = index.take(np.flatnonzero(index.splits == split))
    _refuse_empty(index, split)
    shape = ImageShape(1 if index.grayscale else channels, image_size, image_depth)
    augmentation = _augmentation(config, shape, data_root)
    decoded = decoded_images(
        index.images,
        shape,
        folder=Path(cache),
        skip_bad=config.on_bad_image == "skip",
        workers=workers,
    )
    bad = np.zeros(len(index), dtype=bool)
    bad[list(decoded.bad)] = True
    index = index.leave_out(UNREADABLE, bad)
    _refuse_empty(index, split)
    texts = list(dict.fromkeys(index.texts))
    place = {text: number for number, text in enumerate(texts)}
    labels_NY = torch.full((len(index), len(label_space)), float("nan"))
    labels_NY[:, label_space.positions_of(index.label_space)] = torch.from_numpy(index.labels_NY)
    input_ids_UL, mask_UL = tokenizer.encode(texts, max_tokens)
    images = MappedImages(
        decoded.path,
        np.flatnonzero(~bad),
        channels,
        _per_channel(mean, channels),
        _per_channel(std, channels),
        augmentation,
    )
    return SiteDataset(
        images=[images],
        counts=[len(index)],
        tokens_UL=(input_ids_UL.to(torch.int32), mask_UL.to(torch.bool)),  # a fifth of the memory
        text_of_N=torch.tensor([place[text] for text in index.texts]),
        labels_NY=labels_NY,
        patient_ids=index.patient_ids,
        tells_patients=index.tells_patients,
        study_ids=index.study_ids,
        label_space=label_space,
        left_out=index.left_out,
        notes={**index.notes, "split": config.split, "text": config.text, "augmentation": augmentation},
        demographics=index.demographics,
    )


def _augmentation(config: DatasetConfig, shape: ImageShape, data_root: str | Path | None) -> str:
    """The training images' augmentation, ``auto`` resolved."""
    if config.augmentation != "auto":
        chosen = config.augmentation
    else:
        chosen = "volume" if shape.depth is not None else site_modality(config, data_root) or NONE
    volumes = shape.depth is not None
    if chosen != NONE and (chosen == "volume") != volumes:
        images = "volumes" if volumes else "flat images"
        raise ConfigError(f"{config.folder(data_root)}: augmentation={chosen} is not for {images}; use auto or none")
    return chosen


def _refuse_empty(index: SiteIndex, split: str) -> None:
    if len(index) == 0:
        raise DataError(
            f"{index.root}: the {split} split is empty{index.left_out_words()}; a site needs all three: more patients, "
            "another validation_fraction or test_fraction, or split=patient"
        )


def _per_channel(value: float | Sequence[float], channels: int) -> Sequence[float]:
    return [float(value)] * channels if isinstance(value, int | float) else list(value)
