"""Which backbone learns best from scratch on a small hospital's images?

Trains the `small` model with each backbone, and a plain timm resnet18 (the yardstick), on chest images in the
ChestX-ray14 layout with a patient-disjoint split, and prints one table.

    python benchmarks/small_backbones.py --data-root ../shared/data --epochs 8 --seeds 0

A backbone is written `name` or `name/groups` (groups of its group normalisation); `yardstick:name` is the plain one.
"""

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlmoe.configuration import from_mapping, to_mapping
from medvlmoe.model import MedVLMoE, MedVLMoEConfig, build_image_classifier, build_model

BATCH = 32
FEWEST_POSITIVES = 8
DEFAULT_BACKBONES = [
    "yardstick:resnet18",
    "resnet18/32",
    "resnet18/8",
    "resnetv2_18/8",
    "resnet10t/8",
]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    base = small_config(arguments.config, arguments.set)
    images, labels, test, ids, mask = read_chest_images(arguments.data_root, base.vision.image_size)
    print(f"{(~test).sum()} training and {test.sum()} test images, {labels.shape[1]} labels, {arguments.epochs} epochs")
    print("| backbone | parameters | " + " | ".join(f"AUC seed {seed}" for seed in arguments.seeds) + " | CPU s/step |")
    print("|---|---:|" + "---:|" * (len(arguments.seeds) + 1))
    for name in arguments.backbones:
        aucs, seconds = [], 0.0
        for seed in arguments.seeds:
            model = build(name, base, labels.shape[1], seed)
            seconds = train(model, images[~test], ids[~test], mask[~test], labels[~test], arguments, seed)
            aucs.append(mean_auc(model, images[test], ids[test], mask[test], labels[test]))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"| {name} | {parameters:,} | " + " | ".join(f"{auc:.3f}" for auc in aucs) + f" | {seconds:.2f} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds chestxray14/")
    parser.add_argument("--config", default="small", help="model preset to vary")
    parser.add_argument(
        "--set", nargs="*", default=[], help="Hydra overrides below model, for example moe.residual=false"
    )
    parser.add_argument("--backbones", nargs="+", default=DEFAULT_BACKBONES)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def small_config(preset: str, overrides: list[str]) -> MedVLMoEConfig:
    from omegaconf import OmegaConf

    file = Path(__file__).parent.parent / "configs" / "model" / f"{preset}.yaml"
    return from_mapping(MedVLMoEConfig, OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(overrides)))


def build(name: str, base: MedVLMoEConfig, label_count: int, seed: int) -> torch.nn.Module:
    if name.startswith("yardstick:"):
        return build_image_classifier(name.removeprefix("yardstick:"), label_count, seed)
    backbone, _, groups = name.partition("/")
    vision = dataclasses.replace(base.vision, backbone=backbone)
    if groups:
        vision = dataclasses.replace(vision, normalisation_groups=int(groups))
    return build_model(
        from_mapping(MedVLMoEConfig, {**to_mapping(base), "vision": to_mapping(vision)}), label_count, seed
    )


def read_chest_images(root: Path, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, which rows are for testing (30 % of the patients), and age-sex-view texts as bytes."""
    folder = root / "chestxray14"
    present = {path.name: path for path in (folder / "images").glob("*.png")}
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv", index_col=False)
    table = table[table["Image Index"].isin(present)].reset_index(drop=True)
    findings = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding")
    test = torch.tensor(
        [int(hashlib.sha256(str(patient).encode()).hexdigest(), 16) % 10 < 3 for patient in table["Patient ID"]]
    )
    labels = torch.tensor(findings.to_numpy(), dtype=torch.float32)
    labels = labels[:, (labels[test].sum(0) >= FEWEST_POSITIVES) & (labels[~test].sum(0) >= FEWEST_POSITIVES)]
    pixels = [
        np.asarray(Image.open(present[name]).convert("L").resize((size, size), Image.Resampling.BILINEAR))
        for name in table["Image Index"]
    ]
    images = torch.from_numpy(np.stack(pixels)).float().div(255).sub(0.5).div(0.25).unsqueeze(1).expand(-1, 3, -1, -1)
    sex = table["Patient Gender"] if "Patient Gender" in table else table["Patient Sex"]
    texts = [
        f"Frontal chest radiograph, {view} view. {age}-year-old {'male' if letter == 'M' else 'female'}."
        for view, age, letter in zip(table["View Position"], table["Patient Age"], sex, strict=True)
    ]
    ids = torch.ones(len(texts), 1 + max(map(len, texts)), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text) + 1] = torch.tensor([2, *(4 + byte for byte in text.encode())])
    return images, labels, test, ids, (ids != 1).long()


def train(
    model: torch.nn.Module,
    images: Tensor,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    arguments: argparse.Namespace,
    seed: int,
) -> float:
    """Train in place; processor seconds per step."""
    torch.manual_seed(seed)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    other = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": other, "weight_decay": 0.0}], lr=arguments.learning_rate
    )
    steps = -(-len(images) // BATCH)
    total = steps * arguments.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / steps) * 0.5 * (1 + np.cos(np.pi * step / total))
    )
    model.train()
    start = time.process_time()
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            output = model(images[rows], ids[rows], mask[rows])
            loss = binary_cross_entropy_with_logits(output.logits_BY, labels[rows]) + output.auxiliary_loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return (time.process_time() - start) / total


@torch.no_grad()
def mean_auc(model: torch.nn.Module, images: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    model.eval()
    batches = torch.arange(len(images)).split(128)
    scores = torch.cat([model(images[rows], ids[rows], mask[rows]).logits_BY for rows in batches])
    if isinstance(model, MedVLMoE):
        model.reset_routed_samples()
    return float(roc_auc_score(labels.numpy(), scores.numpy(), average="macro"))


if __name__ == "__main__":
    main()
