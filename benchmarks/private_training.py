"""Time and peak memory of a training step with and without record-level privacy.

    python benchmarks/private_training.py model=tiny
    python benchmarks/private_training.py model=small training.batch_size=16

Each row runs in a process of its own, on random images.
"""

import multiprocessing
import statistics
import sys
import time

import torch

from medvlmoe.configuration import compose
from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelSpace
from medvlmoe.model import build_model
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.run_folder import peak_memory_bytes
from medvlmoe.training import Trainer
from medvlmoe.training.private_steps import PrivateSteps
from strategies.run_config import RunConfig

SPACE = LabelSpace.known("chestxray14")
STEPS = 8
WAYS = ("none", "ghost", "flat")


class RandomRecords:
    """Records of random pixels and tokens; as many as one batch, so that a private step has them all (rate 1)."""

    def __init__(self, config: RunConfig) -> None:
        vision, text = config.model.vision, config.model.text
        self.rows = config.training.batch_size
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(self.rows, vision.channels, vision.image_size, vision.image_size, generator=generator)
        self.tokens = torch.randint(4, 250, (self.rows, min(32, text.max_tokens)), generator=generator)
        self.labels = torch.randint(0, 2, (self.rows, len(SPACE)), generator=generator).float()

    def __len__(self) -> int:
        return self.rows

    def __getitems__(self, indices: list[int]) -> Batch:
        tokens, names = self.tokens[indices], [str(index) for index in indices]
        return Batch(self.images[indices], tokens, torch.ones_like(tokens), self.labels[indices], names, names)


def measure(way: str, arguments: list[str]) -> tuple[float, float]:
    """Median seconds of a step, and the process's peak memory in bytes."""
    config = compose(RunConfig, ["privacy=record", *arguments])
    private = None
    if way != "none":
        privacy = PrivacyConfig(
            mode="record", noise_multiplier=1.0, clipping=way, physical_batch=config.training.batch_size
        )
        private = PrivateSteps(privacy, 1.0, SecretRandomness())
    model = build_model(config.model, len(SPACE), 0)
    trainer = Trainer(model, config.training, SPACE, seed=0, private_steps=private)
    records, seconds = RandomRecords(config), []
    for epoch in range(STEPS):
        started = time.process_time()
        trainer.train_epoch(records, epoch)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[2:]), peak_memory_bytes()


def main() -> None:
    """Print the table."""
    arguments = sys.argv[1:]
    print(f"{' '.join(arguments)}\n\n| privacy | CPU s a step | times | peak MiB |\n|---|---:|---:|---:|")
    first = 0.0
    context = multiprocessing.get_context("spawn")
    for way in WAYS:
        with context.Pool(1) as pool:
            seconds, peak = pool.apply(measure, (way, arguments))
        first = first or seconds
        print(f"| {way} | {seconds:.3f} | {seconds / first:.2f} | {peak / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    main()
