"""Benchmarks, hospital manifests, label spaces, text rules and decoded-image cache."""

from typing import TYPE_CHECKING

from medvlmoe.lazy_package import lazy_attributes
from medvlmoe.torchvision_operators import declare_missing_operators

if TYPE_CHECKING:
    from medvlmoe.data.batch import Batch
    from medvlmoe.data.build import build_dataset
    from medvlmoe.data.config import DataConfig, DatasetConfig
    from medvlmoe.data.dataset import SiteDataset, concatenate
    from medvlmoe.data.labels import LabelBlock, LabelSpace
    from medvlmoe.data.loaders.registry import load_index, site_label_space
    from medvlmoe.data.tokenizer import Tokenizer, load_tokenizer

declare_missing_operators()  # before any module of this package imports timm, transformers or torchvision

__all__ = [
    "Batch",
    "DataConfig",
    "DatasetConfig",
    "LabelBlock",
    "LabelSpace",
    "SiteDataset",
    "Tokenizer",
    "build_dataset",
    "concatenate",
    "load_index",
    "load_tokenizer",
    "site_label_space",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Batch": "batch",
        "DataConfig": "config",
        "DatasetConfig": "config",
        "LabelBlock": "labels",
        "LabelSpace": "labels",
        "SiteDataset": "dataset",
        "Tokenizer": "tokenizer",
        "build_dataset": "build",
        "concatenate": "dataset",
        "load_index": "loaders.registry",
        "load_tokenizer": "tokenizer",
        "site_label_space": "loaders.registry",
    },
)
