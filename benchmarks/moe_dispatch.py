"""How fast is the sparse dispatch beside its alternatives?

Forward and backward of SparseMoE against (a) every expert on every unit with masked weights, and (b) one expert alone,
the cost of the `w/o MoE` ablation. Prints processor milliseconds (best of several) and ratios.

    python benchmarks/moe_dispatch.py --width 1024 --units 32 256
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from medvlmoe.model import MoEConfig, SparseMoE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--units", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    moe = SparseMoE(arguments.width, MoEConfig(experts=arguments.experts))
    print("| units | sparse ms | dense ms | one expert ms | sparse / dense | sparse / one expert |")
    print("|---:|---:|---:|---:|---:|---:|")
    for units in arguments.units:
        fused = torch.randn(units, arguments.width, requires_grad=True)
        difference = (moe(fused)[0] - dense(moe, fused)).abs().max().item()
        assert difference < 1e-4, f"dense and sparse differ by {difference}"
        sparse_ms, dense_ms, one_ms = (
            milliseconds(function, fused, arguments.repeats)
            for function in (lambda x: moe(x)[0], lambda x: dense(moe, x), moe.experts[0])
        )
        ratios = f"{sparse_ms / dense_ms:.2f} | {sparse_ms / one_ms:.2f}"
        print(f"| {units} | {sparse_ms:.1f} | {dense_ms:.1f} | {one_ms:.1f} | {ratios} |")


def dense(moe: SparseMoE, fused: Tensor) -> Tensor:
    probabilities = moe.router(fused).softmax(-1)
    weight, index = probabilities.topk(moe.top_k, dim=-1)
    weights = torch.zeros_like(probabilities).scatter(1, index, weight / weight.sum(-1, keepdim=True))
    outputs = torch.stack([expert(fused) for expert in moe.experts], dim=1)
    return (weights.unsqueeze(-1) * outputs).sum(1)


def milliseconds(function: Callable[[Tensor], Tensor], fused: Tensor, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.process_time()
        function(fused).square().mean().backward()
        best = min(best, time.process_time() - start)
    return 1000 * best


if __name__ == "__main__":
    main()
