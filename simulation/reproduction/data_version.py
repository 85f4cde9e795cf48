"""The version of a data set, as a hash of its records: a result is of these and of no others."""

import hashlib
from pathlib import Path

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.index import LazyTexts
from medvlmoe.data.loaders.registry import load_index, site_modality


def data_version(dataset: DatasetConfig, data_root: str | None) -> str:
    """64 hexadecimal digits that change with a label, a patient, a split, a text or an image file of the site.

    Names and kinds of the labels count, and what decides how images are augmented.

    Image files count by name, size and time of change, as in the cache of decoded images. Reports that are read
    one by one (MIMIC-CXR) count by how many of some studies have one: opening a quarter of a million of them would
    take minutes. Reports that come later are noticed, words that change inside one are not.

    Raises:
        DataError: files are missing or malformed, or the site cannot be learned from.
        ConfigError: the configuration contradicts the files.
    """
    index = load_index(dataset, None if data_root is None else Path(data_root))
    digest = hashlib.sha256(index.labels_NY.tobytes())
    texts = [] if isinstance(index.texts, LazyTexts) else index.texts
    notes = [f"{name}: {words}" for name, words in sorted(index.notes.items())]
    facts = [index.label_space.to_dict(), index.grayscale, site_modality(dataset, data_root)]
    rows = (index.patient_ids, index.study_ids, index.splits.tolist(), texts, index.images.fingerprints())
    columns = (facts, *rows, notes)
    for column in columns:
        digest.update(b"\0")
        for value in column:
            digest.update(f"{value}\n".encode())
    return digest.hexdigest()
