"""Which loader reads which kind of data set."""

from pathlib import Path

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.index import SiteIndex, arrange
from medvlmoe.data.known_labels import SPACE_OF_KIND
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders import chestxray14, chexpert, manifest, medmnist, mimic_cxr
from medvlmoe.data.loaders.manifest_file import load_manifest
from medvlmoe.errors import DataError

_READERS = {
    "chestxray14": chestxray14.read,
    "chexpert": chexpert.read,
    "mimic_cxr": mimic_cxr.read,
    "pathmnist": medmnist.read,
    "retinamnist": medmnist.read,
    "manifest": manifest.read,
}


def load_index(config: DatasetConfig, data_root: str | Path | None = None) -> SiteIndex:
    """All records of a site with their splits, checked; no image is opened.

    Raises:
        DataError: files are missing or malformed, or the site cannot be learned from.
        ConfigError: the configuration contradicts the files.
    """
    root = _existing_folder(config, data_root)
    return arrange(_READERS[config.kind](config, root), config)


def site_label_space(config: DatasetConfig, data_root: str | Path | None = None) -> LabelSpace:
    """The site's own label space, without reading tables or images.

    Raises:
        DataError: there is no such folder.
        ConfigError: the manifest is missing or malformed.
    """
    root = _existing_folder(config, data_root)
    return (
        load_manifest(config, root).label_space
        if config.kind == "manifest"
        else LabelSpace.known(SPACE_OF_KIND[config.kind])
    )


def _existing_folder(config: DatasetConfig, data_root: str | Path | None) -> Path:
    root = config.folder(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root, or the site's root, to where the data lie")
    return root
