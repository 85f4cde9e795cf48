"""Which loader reads which kind of data set."""

import re
from collections.abc import Callable
from pathlib import Path

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.finding_terms import label_terms
from medvlmoe.data.index import SiteIndex, arrange
from medvlmoe.data.known_labels import SPACE_OF_KIND
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders import chestxray14, chexpert, manifest, medmnist, mimic_cxr
from medvlmoe.data.loaders.manifest_file import load_manifest
from medvlmoe.data.loaders.records import Records
from medvlmoe.data.problems import Problems
from medvlmoe.errors import DataError

_Reader = Callable[[DatasetConfig, Path, Problems], SiteIndex]
_READERS: dict[str, _Reader] = {
    "chestxray14": chestxray14.read,
    "chexpert": chexpert.read,
    "mimic_cxr": mimic_cxr.read,
    "pathmnist": medmnist.read,
    "retinamnist": medmnist.read,
    "manifest": manifest.read,
}
_RECORD_READERS: dict[str, Callable[[DatasetConfig, Path, Problems], Records]] = {
    "chestxray14": chestxray14.read_records,
    "chexpert": chexpert.read_records,
    "mimic_cxr": mimic_cxr.read_records,
}

_MODALITY_OF_KIND = {
    "chestxray14": "chest",
    "chexpert": "chest",
    "mimic_cxr": "chest",
    "pathmnist": "pathology",
    "retinamnist": "fundus",
}


def load_index(config: DatasetConfig, data_root: str | Path | None = None) -> SiteIndex:
    """All records of a site with their splits, checked; no image is opened.

    Raises:
        DataError: files are missing or malformed, or the site cannot be learned from.
        ConfigError: the configuration contradicts the files.
    """
    problems = Problems()
    index = read_index(config, existing_folder(config, data_root), problems)
    problems.refuse()
    return arrange(index, config)


def read_index(config: DatasetConfig, root: Path, problems: Problems) -> SiteIndex:
    """All records of a site, not cut into splits yet; malformed rows are taken down, not refused.

    Raises:
        DataError: files are missing or not tables at all.
        ConfigError: the configuration contradicts the files.
    """
    return _READERS[config.kind](config, root, problems)


def read_records(config: DatasetConfig, root: Path, problems: Problems) -> Records:
    """What the index files of a benchmark say; malformed rows are taken down, not refused.

    Raises:
        DataError: files are missing or not tables at all.
    """
    return _RECORD_READERS[config.kind](config, root, problems)


def has_records(kind: str) -> bool:
    """Whether :func:`read_records` knows this kind: a benchmark of image files with tables beside them."""
    return kind in _RECORD_READERS


def site_label_space(config: DatasetConfig, data_root: str | Path | None = None) -> LabelSpace:
    """The site's own label space, without reading tables or images.

    Raises:
        DataError: there is no such folder.
        ConfigError: the manifest is missing or malformed.
    """
    root = existing_folder(config, data_root)
    return (
        load_manifest(config, root).label_space
        if config.kind == "manifest"
        else LabelSpace.known(SPACE_OF_KIND[config.kind])
    )


def site_modality(config: DatasetConfig, data_root: str | Path | None = None) -> str | None:
    """What the site's images show: ``chest``, ``pathology``, ``fundus``, ``volume``, or ``None`` if it is not told.

    Raises:
        DataError: there is no such folder.
        ConfigError: the manifest is missing or malformed.
    """
    if config.kind != "manifest":
        return _MODALITY_OF_KIND[config.kind]
    return load_manifest(config, existing_folder(config, data_root)).modality


def site_terms(config: DatasetConfig, data_root: str | Path | None = None) -> dict[str, re.Pattern[str]]:
    """For each label of the site's space what names it in a text, a manifest's synonyms included.

    Raises:
        DataError, ConfigError: as for :func:`site_label_space`.
    """
    root = existing_folder(config, data_root)
    synonyms = load_manifest(config, root).synonyms if config.kind == "manifest" else {}
    return label_terms(site_label_space(config, data_root).labels, synonyms)


def existing_folder(config: DatasetConfig, data_root: str | Path | None) -> Path:
    """The site's folder.

    Raises:
        DataError: there is no such folder.
    """
    root = config.folder(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root, or the site's root, to where the data lie")
    return root
