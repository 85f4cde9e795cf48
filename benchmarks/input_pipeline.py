"""How fast are decoding, the cache and augmentation?

Writes images into a temporary folder and prints three tables: batches of a training epoch read from the cache
(batches of 32 in shuffled order, in one thread), decoding into the cache by threads, and finding out at a start
whether any source file has changed.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --images /data/chestxray14/images   # decode these too
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from medvlmoe.data import LabelSpace, SiteDataset, load_tokenizer
from medvlmoe.data.cache import decoded_images, source_fingerprints
from medvlmoe.data.decoding import decode_in_order, usable_cores
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.mapped_images import MappedImages
from medvlmoe.training.batches import shuffled_batches, training_view

BATCH = 32
AUGMENTATIONS = {1: ("none", "chest"), 3: ("none", "pathology", "fundus")}  # by stored channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048, help="images in the cache")
    parser.add_argument("--files", type=int, default=112_120, help="files of the start table (ChestX-ray14's number)")
    parser.add_argument("--images", type=Path, help="a folder of images to decode too")
    parser.add_argument("--repeat", type=int, default=3, help="the fastest of so many passes counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print_reading(Path(folder), arguments.rows, arguments.repeat)
        print_decoding(Path(folder), arguments.images, arguments.repeat)
        print_start(Path(folder), arguments.files, arguments.repeat)


def print_reading(folder: Path, rows: int, repeat: int) -> None:
    """An epoch's batches beside the least that any pipeline must do: gather shuffled rows and make them float32.

    In seconds of processor time, so that other programs disturb little.
    """
    print("| size | images | augmentation | images/s | times plain NumPy |")
    print("|---:|---|---|---:|---:|")
    for size in (64, 224):
        for channels, augmentations in AUGMENTATIONS.items():
            plain = seconds_of_plain_numpy(folder, channels, rows, size, repeat)
            for augmentation in augmentations:
                dataset = open_dataset(folder, channels, augmentation, rows, size)
                view = training_view(dataset, 0, 0)
                batches = shuffled_batches(rows, BATCH, seed=0, epoch=0)

                def epoch(view: SiteDataset = view, batches: list[list[int]] = batches) -> None:  # type: ignore[assignment]
                    for batch in batches:
                        view.__getitems__(batch)

                seconds = fastest(epoch, repeat, time.process_time) / rows
                images = "grey" if channels == 1 else "colour"
                print(f"| {size} | {images} | {augmentation} | {1 / seconds:,.0f} | {seconds / plain:.1f} |")


def print_decoding(folder: Path, images: Path | None, repeat: int) -> None:
    """Wall-clock time: how far the threads carry can only be seen on an idle machine."""
    cores = usable_cores()
    print(f"\n| decode to 224 px | images/s, 1 thread | {cores} threads |\n|---|---:|---:|")
    noise = np.random.default_rng(0).normal(0, 3, (1024, 1024))
    smooth = np.asarray(
        Image.fromarray(np.array([[30, 200], [120, 60]], np.uint8)).resize((1024, 1024)), dtype=np.float64
    )
    picture = Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    sets: dict[str, list[Path]] = {}
    for suffix in ("png", "jpg"):
        picture.save(folder / f"large.{suffix}")
        sets[f"1024 px .{suffix}"] = [folder / f"large.{suffix}"] * 64
    if images is not None:
        sets[str(images)] = sorted(path for path in images.iterdir() if path.is_file())[:500]
    for name, paths in sets.items():
        rates = []
        for workers in (1, cores):

            def decode(paths: list[Path] = paths, workers: int = workers) -> None:
                for _ in decode_in_order(ImageFiles(paths), ImageShape(1, 224), start=0, workers=workers):
                    pass

            rates.append(len(paths) / fastest(decode, repeat, time.perf_counter))
        print(f"| {name} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |")


def print_start(folder: Path, count: int, repeat: int) -> None:
    files = folder / "files"
    files.mkdir()
    paths = [files / f"{number:08d}.png" for number in range(count)]
    for path in paths:
        path.touch()
    seconds = fastest(lambda: source_fingerprints(ImageFiles(paths)), repeat, time.perf_counter)
    print(f"\nsize and time of change of {count:,} files: {seconds:.2f} s")


def open_dataset(folder: Path, channels: int, augmentation: str, rows: int, size: int) -> SiteDataset:
    """Random pictures with texts of up to 64 tokens, grey (stored as one channel) or in colour."""
    decoded = decoded_images(Noise(rows), ImageShape(channels, size), folder=folder)
    texts = [
        f"Frontal chest radiograph, PA view. {age}-year-old {sex}." for age in range(90) for sex in ("man", "woman")
    ]
    input_ids_UL, mask_UL = load_tokenizer("byte").encode(texts, 64)
    names = [f"{row:08d}" for row in range(rows)]
    return SiteDataset(
        images=[MappedImages(decoded.path, np.arange(rows), 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), augmentation)],
        counts=[rows],
        tokens_UL=(input_ids_UL.to(torch.int32), mask_UL.to(torch.bool)),
        text_of_N=torch.arange(rows) % len(texts),
        labels_NY=torch.zeros(rows, 14),
        patient_ids=names,
        study_ids=names,
        label_space=LabelSpace.known("chestxray14"),
        left_out={},
        notes={},
    )


def seconds_of_plain_numpy(folder: Path, channels: int, rows: int, size: int, repeat: int) -> float:
    """Of one image; a grey one is repeated to three channels."""
    pixels = np.load(decoded_images(Noise(rows), ImageShape(channels, size), folder=folder).path, mmap_mode="r")
    batches = shuffled_batches(rows, BATCH, seed=0, epoch=0)

    def epoch() -> None:
        for batch in batches:
            floats = np.empty((len(batch), 3, size, size), dtype=np.float32)
            floats[:] = pixels[batch]

    return fastest(epoch, repeat, time.process_time) / rows


@dataclass(frozen=True)
class Noise:
    """Images of random pixels."""

    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, rows: npt.NDArray[np.int64]) -> "Noise":
        return Noise(len(rows))

    def fingerprints(self) -> Iterator[str]:
        return iter(["noise"] * self.count)

    def decode(self, position: int, shape: ImageShape) -> npt.NDArray[np.uint8]:
        return np.random.default_rng(position).integers(0, 256, shape.dimensions, dtype=np.uint8)


def fastest(work: Callable[[], object], repeat: int, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of ``repeat`` passes, after one that warms up."""
    work()
    seconds = []
    for _ in range(repeat):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
