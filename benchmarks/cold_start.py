"""What our part of a ClientApp process costs before it trains, in CPU seconds by stage.

Flower starts a process for each message. Its own start, the transfer of the model and the training are not counted.
Run: ``python benchmarks/cold_start.py [model=tiny] [data.root=phantom]`` (a chestxray14 site; its image cache is made
in a first, uncounted process).
"""

import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("Flower's ClientApp runtime", "torch", "our imports", "label space", "model", "data sets")


def measure(overrides: list[str]) -> list[float]:
    """CPU seconds of each stage, in this process."""
    # ruff: noqa: F401
    times = [time.process_time()]
    import flwr.supernode.runtime.run_clientapp

    times.append(time.process_time())
    import torch

    times.append(time.process_time())
    from client.app import simulated_site
    from client.resident import own_label_space, resident_dataset, resident_model
    from medvlmoe.configuration import compose
    from strategies.messages import RoundConfig
    from strategies.run_config import RunConfig

    times.append(time.process_time())
    run = compose(RunConfig, overrides)  # a simulation's; at a hospital it is site.yaml and the server's request
    site = simulated_site(run, "chestxray14")
    label_space = own_label_space(site)
    times.append(time.process_time())
    request = RoundConfig(
        run="cold-start", round=1, rounds=1, local_epochs=1, keep_optimizer_state=True, seed=run.seed,
        model=run.model, label_space=label_space, training=run.training,
    )  # fmt: skip
    resident_model(site, request)
    times.append(time.process_time())
    for split in ("validation", "train"):
        resident_dataset(site, split, label_space, run.model)
    times.append(time.process_time())
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> None:
    if sys.argv[1:2] == ["--here"]:
        print(*measure(sys.argv[2:]))
        return
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, __file__, "--here", "data.root=phantom", *sys.argv[1:], f"output.root={output}"]
        for _ in range(2):
            answer = subprocess.run(command, cwd=Path.cwd(), stdout=subprocess.PIPE, text=True, check=True)
    from medvlmoe.analysis.comparison import markdown  # here, so that what it imports is counted above

    seconds = [float(word) for word in answer.stdout.split()]
    rows = [[stage, f"{count:.2f}"] for stage, count in zip(STAGES, seconds, strict=True)]
    print(markdown([["stage", "CPU seconds"], *rows, ["all", f"{sum(seconds):.2f}"]]))


if __name__ == "__main__":
    main()
