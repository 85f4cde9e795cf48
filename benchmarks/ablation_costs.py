"""Parameters and floating-point operations of every ablation, one sample of the given number of text tokens.

    python benchmarks/ablation_costs.py --model paper --tokens 40

Only names, shapes and routing count, so all weights are zero; nothing is downloaded.
"""

import argparse
import time

import torch
from rich.console import Console
from rich.table import Table

from medvlmoe.analysis.reproduction.document import count
from medvlmoe.configuration import compose
from medvlmoe.data.batch import Batch
from medvlmoe.model import MedVLMoEConfig, empty_model
from medvlmoe.model.ablations import ABLATIONS, FULL
from medvlmoe.model.costs import ModelCost, measure_cost
from medvlmoe.model.memory import finish_filling
from strategies.run_config import RunConfig

LABELS = 14


def cost_of(config: MedVLMoEConfig, tokens: int) -> ModelCost:
    model = empty_model(config, LABELS)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(torch.zeros(parameter.shape)))
    finish_filling(model)
    words = torch.full((1, tokens), 5)
    size = config.vision.image_size
    image = torch.zeros(1, config.vision.channels, size, size)
    sample = Batch(image, words, torch.ones_like(words), torch.zeros(1, LABELS), ["p"], ["s"])
    return measure_cost(model, [sample])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paper")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=[FULL, *ABLATIONS])
    chosen = parser.parse_args()
    full = compose(RunConfig, [f"model={chosen.model}"]).model
    table = Table("variant", "parameters", "active", "FLOPs", "FLOPs / full", title=f"model={chosen.model}")
    whole = cost_of(full, chosen.tokens)
    started = time.monotonic()
    for name in chosen.only:
        config = full if name == FULL else ABLATIONS[name].apply(full)
        title = "MedVLMoE" if name == FULL else ABLATIONS[name].title
        cost = cost_of(config, chosen.tokens)
        table.add_row(
            title, f"{cost.parameters:,}", f"{cost.active:,.0f}", count(cost.flops), f"{cost.flops / whole.flops:.4f}"
        )
    Console(width=120).print(table)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
