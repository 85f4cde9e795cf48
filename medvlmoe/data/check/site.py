"""Look through one site's folder: its index files, then the images they name."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvlmoe.data.check.counts import PartCounts, SiteCounts, count_part
from medvlmoe.data.check.published import published_counts
from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import ImageSource, SiteIndex
from medvlmoe.data.known_labels import SPACE_OF_KIND
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.manifest_file import load_manifest
from medvlmoe.data.loaders.medmnist import npz_path
from medvlmoe.data.loaders.records import Records
from medvlmoe.data.loaders.registry import existing_folder, has_records, read_index, read_records
from medvlmoe.data.phantom.mark import is_phantom
from medvlmoe.data.problems import Problems
from medvlmoe.data.tables import read_table
from medvlmoe.errors import ConfigError, DataError

WHOLE = "all"
_ORDER = ("train_val", "train", "valid", "validate", "validation", "test")


@dataclass(kw_only=True)
class SiteCheck:
    """What was found in one site's folder.

    Attributes:
        name: the site.
        root: its folder.
        found: counts of the index files.
        published: counts to stand beside them; ``None`` where nothing is published.
        on_disk: part -> images that are there, of those the index names.
        missing: names of images that are not on disk.
        notes: facts about the folder.
        problems: malformed rows, unreadable files, images that cannot be decoded.
        images: those on disk, to decode them.
    """

    name: str
    root: Path
    found: SiteCounts = field(default_factory=lambda: SiteCounts(parts={}))
    published: SiteCounts | None = None
    on_disk: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    images: ImageSource | None = None


def check_site(name: str, config: DatasetConfig, data_root: str | Path | None) -> SiteCheck:
    """Read a site's index files as a run would, and look which images are there; no image is opened.

    A folder that cannot be read at all is a problem of the result, not an error.
    """
    config = replace(config, allow_subset=True)
    check = SiteCheck(name=name, root=config.folder(data_root))
    try:
        root = existing_folder(config, data_root)
        phantom = is_phantom(root)
        if has_records(config.kind):
            _check_records(check, config, root, phantom)
        else:
            _check_index(check, config, root, phantom)
    except (DataError, ConfigError) as error:
        where, _, what = str(error).partition(": ")
        if where.startswith(str(check.root)):
            check.problems.add(Path(where), what)
        else:
            check.problems.add(check.root, str(error))
        return check
    if phantom:
        check.notes["phantom"] = "synthetic images: nothing is published about them"
    return check


def _check_records(check: SiteCheck, config: DatasetConfig, root: Path, phantom: bool) -> None:
    records = _records_with_parts(check, config, root)
    _take_down_shared_patients(check, records.patient_ids, records.splits)
    check.notes = dict(records.notes)
    check.published = None if phantom else published_counts(config, records.notes["labels"])
    labels = LabelSpace.known(SPACE_OF_KIND[config.kind]).labels
    check.found = SiteCounts(parts=_count_parts(check, records, labels), facts=records.facts)
    present = records.present()
    check.on_disk = {part: int(present[rows].sum()) for part, rows in _rows_by_part(records.parts).items()}
    absent = np.flatnonzero(~present & records.listed()).tolist()
    studies = np.flatnonzero(~records.listed()).tolist()
    check.missing = [records.names[row] for row in absent]
    check.missing += [f"all images of {records.names[row].rpartition('/')[0]}" for row in studies]
    check.images = ImageFiles([Path(records.files[row]) for row in np.flatnonzero(present).tolist()])


def _records_with_parts(check: SiteCheck, config: DatasetConfig, root: Path) -> Records:
    """The records in their official parts, also where the site itself cuts by patient; it may then lack the lists."""
    try:
        return read_records(replace(config, split="official"), root, check.problems)
    except DataError:
        if config.split == "official":
            raise
        return read_records(config, root, check.problems)


def _take_down_shared_patients(check: SiteCheck, patient_ids: Sequence[str], splits: npt.NDArray[np.str_]) -> None:
    parts_of: dict[str, set[str]] = {}
    for patient, split in zip(patient_ids, splits.tolist(), strict=True):
        if split:
            parts_of.setdefault(patient, set()).add(split)
    for patient, parts in parts_of.items():
        if len(parts) > 1:
            check.problems.add(check.root, f"patient {patient} is in more than one split: {', '.join(sorted(parts))}")


def _count_parts(check: SiteCheck, records: Records, labels: Sequence[str]) -> dict[str, PartCounts]:
    counts: dict[str, PartCounts] = {}
    for part, rows in _rows_by_part(records.parts).items():
        wanted = check.published.parts.get(part) if check.published else None
        chosen = rows.tolist()
        counts[part] = count_part(
            records.codes_NY[rows],
            labels,
            [records.study_ids[row] for row in chosen],
            [records.patient_ids[row] for row in chosen],
            records.listed()[rows],
            by_study=wanted is not None and wanted.by_study,
        )
    return counts


def _rows_by_part(parts: npt.NDArray[np.str_]) -> dict[str, npt.NDArray[np.int64]]:
    names = sorted({name for name in parts.tolist() if name}, key=_ORDER.index)
    return {name: np.flatnonzero(parts == name) for name in names} | {WHOLE: np.arange(len(parts))}


def _check_index(check: SiteCheck, config: DatasetConfig, root: Path, phantom: bool) -> None:
    """A hospital's own table, or a MedMNIST file: what a run would read is all there is."""
    if config.kind == "manifest":
        split = config.split if load_manifest(config, root).split else "patient"
        config = replace(config, split=split, uncertain="ignore")  # uncertain labels are counted as unknown
    index = read_index(config, root, check.problems)
    check.published = None if phantom else published_counts(config)
    check.notes = dict(index.notes)
    check.images = index.images
    if config.split == "official":
        _take_down_shared_patients(check, index.patient_ids, index.splits)
    parts = index.splits if config.split == "official" else np.full(len(index), "")
    check.found = SiteCounts(
        parts={part: _count_rows(index, rows) for part, rows in _rows_by_part(parts).items()},
        facts={f"left out: {reason}": count for reason, count in index.left_out.items()},
    )
    if config.kind == "manifest":
        check.missing = _missing_of_manifest(config, root)
        check.on_disk = {WHOLE: len(index)}
    elif not phantom:
        _compare_md5(check, config, npz_path(config, root))


def _count_rows(index: SiteIndex, rows: npt.NDArray[np.int64]) -> PartCounts:
    chosen = rows.tolist()
    studies, patients = [index.study_ids[row] for row in chosen], [index.patient_ids[row] for row in chosen]
    counts = count_part(
        index.labels_NY[rows], index.label_space.labels, studies, patients, np.ones(len(rows), dtype=bool)
    )
    positive = {label: counts.labels["positive"][label] for label in index.label_space.labels}
    if any(block.exclusive for block in index.label_space.blocks):
        return replace(counts, labels={"positive": positive})
    unknown = counts.labels["blank"]
    return replace(counts, labels={"positive": positive, "negative": counts.labels["negative"], "blank": unknown})


def _missing_of_manifest(config: DatasetConfig, root: Path) -> list[str]:
    manifest = load_manifest(config, root)
    path = root / manifest.table
    table = read_table(path, (manifest.image,), encoding=manifest.encoding, problems=Problems())
    names = [name.replace("\\", "/") for name in table[manifest.image]]  # tables written on Windows
    named = zip(table.index.tolist(), names, strict=True)
    return [f"{path} line {line}: {name}" for line, name in named if name and not (root / name).exists()]


def _compare_md5(check: SiteCheck, config: DatasetConfig, path: Path) -> None:
    import medmnist

    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    published = medmnist.INFO[config.kind]["MD5" if config.size == 28 else f"MD5_{config.size}"]
    check.notes["MD5"] = found
    if found != published:
        check.problems.add(path, f"its MD5 is {found}, that of the published file {published}; download it again")
