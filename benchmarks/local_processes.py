"""What several local processes cost and bring on a CPU: seconds of starting, training and evaluating.

    python benchmarks/local_processes.py --model small --images 512

On a CPU the processes share the cores that one process would use alone, so nothing is gained; what shows is the price
of sharing a batch: the processes' start, weights and optimizer state sent with each call, gradients summed in each
step by gloo over the loopback interface. It says nothing of GPUs, which exchange by NCCL and do not share cores.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from medvlmoe.configuration import compose
from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelBlock, LabelSpace
from medvlmoe.model import build_model
from medvlmoe.training import Trainer, TrainingConfig
from strategies.run_config import RunConfig

LABELS = LabelSpace.of("random", LabelBlock("findings", "multilabel", tuple(f"label {k}" for k in range(14))))
EPOCHS = 3


@dataclass
class RandomRows:
    """Noise with random labels, in memory, so that loading costs nothing."""

    images: Tensor
    tokens: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: list[int], /) -> Batch:
        tokens, names = self.tokens[rows], [str(row) for row in rows]
        return Batch(self.images[rows], tokens, torch.ones_like(tokens), self.labels[rows], names, names)


def seconds(work: object, *arguments: object) -> float:
    assert callable(work)
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()

    model = compose(RunConfig, [f"model={options.model}"]).model
    size, channels = model.vision.image_size, model.vision.channels
    rows = RandomRows(
        torch.randn(options.images, channels, size, size),
        torch.randint(3, 250, (options.images, min(64, model.text.max_tokens))),
        torch.randint(0, 2, (options.images, len(LABELS))).float(),
    )
    training = TrainingConfig(batch_size=options.batch_size, precision="float32", bootstrap_resamples=0)
    steps = -(-options.images // options.batch_size)
    print(f"{options.model}, {options.images} images, batch {options.batch_size}, {torch.get_num_threads()} threads")
    print("| processes | first call s | seconds a step | evaluation s | empty call s |")
    print("|---:|---:|---:|---:|---:|")
    for processes in options.processes:
        trainer = Trainer(
            build_model(model, len(LABELS), seed=0), training, LABELS, seed=0, device="cpu", devices=processes
        )
        few = RandomRows(rows.images[: 2 * options.batch_size], rows.tokens, rows.labels)
        first = seconds(trainer.evaluate, few)
        epochs = [seconds(trainer.train_epoch, rows, epoch) for epoch in range(EPOCHS)]
        evaluations = [seconds(trainer.evaluate, rows) for _ in range(EPOCHS)]
        few = RandomRows(rows.images[:processes], rows.tokens, rows.labels)
        # One step on one row a process: almost only what is sent.
        empty = [seconds(trainer.train_epoch, few, EPOCHS) for _ in range(EPOCHS)]
        print(
            f"| {processes} | {first:.1f} | {min(epochs) / steps:.3f} | {min(evaluations):.2f} | {min(empty):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
