"""How long does it take to read index files of the official size, and how much memory?

Seconds are those of the processor (one thread reads), so that other work on the machine does not count.

Writes synthetic index files with as many rows as the published ones (no images; the real files are under licence),
reads each site as a run would, in a process of its own, and prints a table. ``--nih`` names a folder with the official
ChestX-ray14 table instead. ``--images N`` also writes a PathMNIST file at 224 pixels with N training images and reads
them one after the other.

    python benchmarks/index_loading.py --nih ../shared/data/chestxray14 --images 4000
"""

import argparse
import gzip
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.loaders.registry import read_index, read_records
from medvlmoe.data.problems import Problems
from medvlmoe.run_folder import peak_memory_bytes

Result = TypeVar("Result")

CODES = np.array(["", "", "", "", "", "1.0", "0.0", "-1.0"])
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nih", type=Path)
    parser.add_argument("--images", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        in_own_process(write_chexpert, root / "chexpert")
        in_own_process(write_mimic, root / "mimic_cxr")
        sites = {"chexpert": root / "chexpert", "mimic_cxr": root / "mimic_cxr"}
        if arguments.nih:
            sites["chestxray14"] = arguments.nih
        print("| what | rows | CPU seconds | peak memory |\n|---|---:|---:|---:|")
        for kind, place in sites.items():
            measured(f"{kind}: index files", _read_tables, kind, place)
        measured("chexpert: uncertain=lsr", _read_policy, "chexpert", root / "chexpert")
        if arguments.images:
            in_own_process(write_pathmnist, root, arguments.images)
            measured("pathmnist: train images, 224 px", _read_images, "pathmnist", root)


def measured(name: str, work: Callable[..., tuple[int, float, int]], *arguments: Any) -> None:
    rows, seconds, peak = in_own_process(work, *arguments)
    print(f"| {name} | {rows:,} | {seconds:.1f} | {peak / 2**30:.2f} GiB |", flush=True)


def in_own_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """Run in a new process, so that its peak memory is its own and not left in this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _read_tables(kind: str, root: Path) -> tuple[int, float, int]:
    started = time.process_time()
    problems = Problems()
    records = read_records(DatasetConfig(kind=kind, root=str(root)), root, problems)
    problems.refuse()
    return len(records), time.process_time() - started, peak_memory_bytes()


def _read_policy(kind: str, root: Path) -> tuple[int, float, int]:
    started = time.process_time()
    config = DatasetConfig(kind=kind, root=str(root), uncertain="lsr", views="all")
    from medvlmoe.data.loaders.label_policy import resolve_blank, resolve_uncertain

    records = read_records(config, root, Problems())
    resolve_uncertain(resolve_blank(records.codes_NY, config), CHEXPERT, records.names, config)
    return len(records), time.process_time() - started, peak_memory_bytes()


def _read_images(kind: str, root: Path) -> tuple[int, float, int]:
    started = time.process_time()
    index = read_index(DatasetConfig(kind=kind, root=str(root), size=224), root, Problems())
    train = index.take(np.flatnonzero(index.splits == "train"))
    for position in range(len(train)):
        train.images.decode(position, ImageShape(3, 224))
    return len(train), time.process_time() - started, peak_memory_bytes()


def write_chexpert(root: Path, studies: int = 187_641, images: int = 223_414, patients: int = 64_540) -> None:
    """``train.csv`` and ``valid.csv`` of the official size."""
    root.mkdir(parents=True)
    header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(CHEXPERT)}"
    random = np.random.default_rng(0)
    for part, first, count, people in (("train", 1, images, patients), ("valid", 64_541, 234, 200)):
        codes = random.choice(CODES if part == "train" else CODES[5:7], (count, len(CHEXPERT)))
        lateral = count - (studies if part == "train" else 200)  # so many studies have a second view
        lines = [header]
        for row in range(count):
            study = row if row < count - lateral else row - (count - lateral)
            side, angle, view = ("frontal", "AP", 1) if row == study else ("lateral", "", 2)
            place = f"{part}/patient{first + study % people:05d}/study{1 + study // people}/view{view}_{side}.jpg"
            lines.append(f"CheXpert-v1.0/{place},Female,60,{side.title()},{angle},{','.join(codes[row])}")
        (root / f"{part}.csv").write_text("\n".join(lines))


def write_mimic(root: Path, images: int = 377_110, studies: int = 227_835, patients: int = 65_379) -> None:
    """The split, metadata and label tables of the official size."""
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    split, metadata = ["dicom_id,study_id,subject_id,split"], [METADATA]
    labels = [f"subject_id,study_id,{','.join(sorted(CHEXPERT))}"]
    codes = random.choice(CODES, (studies, len(CHEXPERT)))
    for row in range(images):
        study = row % studies
        patient = 10_000_000 + study % patients
        part = "test" if study % patients < 293 else "validate" if study % patients < 793 else "train"
        dicom = "-".join(f"{(row * 2654435761 + part_ * 97) % 2**32:08x}" for part_ in range(5))
        split.append(f"{dicom},{50_000_000 + study},{patient},{part}")
        view = "PA" if row < studies else "LATERAL"
        metadata.append(
            f"{dicom},{patient},{50_000_000 + study},CHEST (PA AND LAT),{view},3056,2544,21800506,213014.531,"
            "CHEST (PA AND LAT),postero-anterior,Erect"
        )
        if row < studies:
            labels.append(f"{patient},{50_000_000 + study},{','.join(codes[row])}")
    for name, lines in (("split", split), ("metadata", metadata), ("chexpert", labels)):
        content = gzip.compress("\n".join(lines).encode(), compresslevel=1)
        (root / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(content)


def write_pathmnist(root: Path, images: int) -> None:
    """A compressed file whose training part has this many images."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, count in (("train", images), ("val", 9), ("test", 9)):
        rows = random.integers(0, 255, (min(count, 50), 224, 224, 3), dtype=np.uint8) // 16
        arrays[f"{name}_images"] = np.resize(rows, (count, 224, 224, 3))
        arrays[f"{name}_labels"] = (np.arange(count) % 9)[:, None].astype(np.uint8)
    np.savez_compressed(root / "pathmnist_224.npz", **arrays)


if __name__ == "__main__":
    main()
