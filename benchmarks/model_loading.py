"""How long does it take until a model has the weights that it is given, beside reading their bytes?

Four ways, taken in turns: the bytes alone (``Path.read_bytes``); a checkpoint into a model without memory (`medvlmoe
evaluate`, a server that goes on); a received message into a model without memory (a site); and what one would write
first, a model with random weights and `load_state_dict`. Prints processor seconds (median), ratios to the bytes, and
the time of building alone.

    python benchmarks/model_loading.py --model paper --repeats 5
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medvlmoe.configuration import compose
from medvlmoe.files import TensorFile, load_tensors, save_tensors
from medvlmoe.model import MedVLMoEConfig, build_model, empty_model
from medvlmoe.model.memory import finish_filling
from strategies.exchange import exchanged_tensors, load_exchanged
from strategies.messages import ReceivedTensors, encode_arrays
from strategies.run_config import RunConfig

LABELS = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paper", help="preset in configs/model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = compose(RunConfig, [f"model={arguments.model}"]).model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model = build_model(config, LABELS, seed=0)
        save_tensors(path, model.state_dict())
        message = encode_arrays(exchanged_tensors(model), "float32")
        del model
        ways: dict[str, Callable[[], object]] = {
            "reading the bytes": path.read_bytes,
            "building without memory": lambda: empty_model(config, LABELS),
            "building without memory, checkpoint": lambda: from_checkpoint(config, path),
            "building without memory, message": lambda: from_message(config, ReceivedTensors(message, "float32")),
            "building with random weights": lambda: build_model(config, LABELS, seed=0),
            "building with random weights, checkpoint": lambda: random_first(config, path),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                seconds[name].append(measured(way))
        size = path.stat().st_size / 1e9
    print(f"{arguments.model}, {size:.2f} GB, {arguments.threads} threads\n")
    print("| | processor seconds | times reading |\n|---|---:|---:|")
    reading = seconds["reading the bytes"]
    for name, values in seconds.items():
        ratio = statistics.median(value / base for value, base in zip(values, reading, strict=True))
        print(f"| {name} | {statistics.median(values):.2f} | {ratio:.2f} |")


def from_checkpoint(config: MedVLMoEConfig, path: Path) -> None:
    model = empty_model(config, LABELS)
    model.load_state_dict(dict(TensorFile(path)), assign=True)
    finish_filling(model)


def from_message(config: MedVLMoEConfig, tensors: ReceivedTensors) -> None:
    load_exchanged(empty_model(config, LABELS), tensors, take=True)


def random_first(config: MedVLMoEConfig, path: Path) -> None:
    build_model(config, LABELS, seed=0).load_state_dict(load_tensors(path)[0])


def measured(way: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    way()
    return time.process_time() - start


if __name__ == "__main__":
    main()
