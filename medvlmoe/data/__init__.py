"""Benchmarks, hospital manifests, label spaces, text rules and decoded-image cache."""

from medvlmoe.torchvision_operators import declare_missing_operators

declare_missing_operators()  # before any module below imports medmnist, transformers or torchvision

from medvlmoe.data.batch import Batch  # noqa: E402
from medvlmoe.data.build import build_dataset  # noqa: E402
from medvlmoe.data.config import DataConfig, DatasetConfig  # noqa: E402
from medvlmoe.data.dataset import SiteDataset, concatenate  # noqa: E402
from medvlmoe.data.labels import LabelBlock, LabelSpace  # noqa: E402
from medvlmoe.data.loaders.registry import load_index, site_label_space  # noqa: E402
from medvlmoe.data.tokenizer import Tokenizer, load_tokenizer  # noqa: E402

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
