"""Everything that a model card says, as JSON values, from the files of a run folder and from nothing else."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlmoe import stamps
from medvlmoe.analysis.card.comparison_model import comparison_model
from medvlmoe.analysis.card.subgroups import Disclosure, results_of
from medvlmoe.configuration import to_mapping
from medvlmoe.errors import CheckpointError
from medvlmoe.files import TensorFile, read_json, read_json_lines
from medvlmoe.seeds import derive_seed
from medvlmoe.trained_model import TrainedModel
from medvlmoe.training.predictions import load_predictions

DATA_FACTS, PREDICTIONS = "data.json", "predictions"
"""What a simulation knows of its sites' data; the folder of scores on the test splits."""

ALONE = ("local", "baseline")
"""Modes whose models are trained and tested at one site each."""

_TRAINING = ("batch_size", "encoder_learning_rate", "head_learning_rate", "weight_decay", "warmup_epochs", "schedule",
             "precision", "patience")  # fmt: skip


def card_numbers(folder: Path, checkpoint: Path, sites: Sequence[str], *, min_patients: int) -> dict[str, Any]:
    """What the card of one trained model says.

    Args:
        folder: the run folder.
        checkpoint: its ``final.safetensors``.
        sites: whose test splits it was tested on.
        min_patients: smallest group that results are shown of.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    summary, config = read_json(folder / "summary.json"), read_json(folder / "config.json")
    trained = TrainedModel.describe(checkpoint)
    how = Disclosure(
        min_patients=min_patients,
        resamples=config["training"]["bootstrap_resamples"],
        seed=derive_seed(summary["seed"], "bootstrap"),
    )
    facts = read_json(folder / DATA_FACTS) if (folder / DATA_FACTS).exists() else {}
    results = {}
    for site in sites:
        path = folder / PREDICTIONS / f"{site}.safetensors"
        results[site] = {
            "summary": summary["sites"][site],
            "predictions": results_of(load_predictions(path), how) if _is_inside(path, folder) else None,
        }
    numbers = {
        "run": _name(folder, config),
        "mode": summary["mode"],
        "seed": summary["seed"],
        "stamps": stamps.in_order(
            [*trained.stamps, *(stamp for site in sites for stamp in summary["sites"][site].get("stamps", []))]
        ),
        "model": _model(trained),
        "comparison": None
        if trained.baseline is None
        else comparison_model(
            trained.baseline, trained.config, (summary["baseline"]["pretraining_text"] or {}).get(sites[0])
        ),
        "reads_text": trained.reads_text,
        "training": _training(folder, summary, config, trained),
        "data": {site: facts[site] for site in facts if site in sites or summary["mode"] not in ALONE},
        "sites": results,
        "min_patients": min_patients,
        "min_of_a_class": how.min_of_a_class,
        "bootstrap_resamples": how.resamples,
        "privacy": "privacy" in summary or (folder / "privacy.md").exists(),
    }
    return {**numbers, "limits": limits(numbers)}


def _name(folder: Path, config: dict[str, Any]) -> str:
    """The run's own name below ``output.root``, which says what is compared; the folder's if it was renamed."""
    name = config["output"]["name"] or ""
    if Path(name).name != folder.name:
        return folder.name
    return str(name).replace("/compare/", "/").removeprefix("cells/")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether the file exists, and a site's name has not led out of the folder."""
    return path.exists() and path.resolve().parent == (folder / PREDICTIONS).resolve()


def limits(numbers: dict[str, Any]) -> list[str]:
    """What one must know before believing the numbers; told from the numbers themselves."""
    found = list(stamps.lines(numbers["stamps"]))
    found.append(
        f"One training run (seed {numbers['seed']}): the intervals are over patients and say nothing of other seeds."
    )
    found.append("Tested on patients of the hospitals that it was trained at; no hospital is new to it.")
    if numbers["mode"] in ALONE:
        found[-1] = "Trained and tested at one hospital; nothing is known of any other."
    if numbers["comparison"] is not None and numbers["comparison"]["random"]:
        found.append(
            "Not the published model: its encoders started from random weights and saw one site's training images."
        )
    for site, entry in numbers["sites"].items():
        result, summary = entry["predictions"], entry["summary"]
        if result is not None and result.get("suppressed"):
            found.append(f"{site}: fewer than {numbers['min_patients']} test patients; no result is shown.")
        elif summary["auc"] is None:
            found.append(f"{site}: no label has both classes in the test split, so there is no AUC.")
        elif summary["auc_ci"] and summary["auc_ci"][0] <= 0.5:
            found.append(f"{site}: the interval of the AUC reaches chance (0.5).")
        text_only = summary.get("text_only_auc")
        if text_only is not None and summary["auc"] is not None and text_only >= summary["auc"]:
            found.append(
                f"{site}: a classifier on the text alone is as good ({text_only:.3f}); nothing shows that the image "
                "adds to it."
                if numbers["reads_text"]
                else f"{site}: a classifier on the text alone, which this model does not read, is as good "
                f"({text_only:.3f})."
            )
        if result is not None and not result.get("suppressed") and not any(result["subgroups"].values()):
            found.append(f"{site}: age, sex and view are not known, so results by subgroup are not.")
    return found


def _model(trained: TrainedModel) -> dict[str, Any]:
    file = TensorFile(trained.path)
    return {
        "config": to_mapping(trained.config),
        "parameters": trained.parameters or sum(math.prod(file.shape_of(name)) for name in file),
        "blocks": trained.label_space.to_dict()["blocks"],
        "file": trained.path.name,
        "kept": True,
        "bytes": trained.path.stat().st_size,
        "sha256": _sha256(trained.path),
    }


def _training(folder: Path, summary: dict[str, Any], config: dict[str, Any], trained: TrainedModel) -> dict[str, Any]:
    rounds = list(read_json_lines(folder / "rounds.jsonl"))
    examples: dict[str, float] = {}
    for line in rounds:
        for site, entry in line.get("sites", {}).items():
            if isinstance(entry.get("examples"), int | float):
                examples[site] = max(examples.get(site, 0), entry["examples"])
    return {
        "rounds": summary["rounds"],
        "local_epochs": config["federation"]["local_epochs"],
        "strategy": config["strategy"]["name"],
        "examples": examples,
        "weights": {part: getattr(trained.config, part).weights for part in ("vision", "text")},
        **{key: config["training"][key] for key in _TRAINING},
    }


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def as_json(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers without what the summary holds anyway and a small group could be told from."""
    plain = json.loads(json.dumps(numbers))
    for entry in plain["sites"].values():
        result = entry["predictions"]
        if result is not None:
            for key in ("per_label", "loss", *(("auc", "auc_ci", "accuracy", "n") if result.get("suppressed") else ())):
                entry["summary"].pop(key, None)
    return plain
