"""``model_card.md`` and ``model_card.json`` beside every trained model of a run folder."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medvlmoe import stamps
from medvlmoe.analysis.card.numbers import ALONE, as_json, card_numbers
from medvlmoe.files import TensorFile, read_json, write_json, write_text
from medvlmoe.run_folder import read_summary

MIN_PATIENTS = 10
CARD, FINAL = "model_card", "final.safetensors"


def write_cards(folder: Path, *, min_patients: int = MIN_PATIENTS) -> list[Path]:
    """Write the card of every finished model of a run: the one of all sites, or one a site.

    Args:
        folder: a run folder with ``summary.json``.
        min_patients: smallest group of patients that results are shown of.

    Returns:
        The ``model_card.md`` files; none where the run kept no model.

    Raises:
        CheckpointError: the run is not finished, or a file of it is damaged.
    """
    sites = sorted(read_summary(folder)["sites"])
    models = {folder / "checkpoints" / FINAL: sites}
    # a hospital's name comes from the hospital; those of a simulation's sites are names of folders
    models |= {folder / "checkpoints" / site / FINAL: [site] for site in sites if Path(site).name == site}
    written = []
    for checkpoint, tested in models.items():
        if checkpoint.exists() and "model" in TensorFile(checkpoint).metadata():
            numbers = card_numbers(folder, checkpoint, tested, min_patients=min_patients)
            written.append(_write(checkpoint.parent, as_json(numbers)))
    return written


def say_that_weights_go(folder: Path) -> None:
    """Before ``final.safetensors`` in this folder is deleted: its card stays, and says so.

    Raises:
        CheckpointError: the card cannot be read or written.
    """
    if (folder / f"{CARD}.json").exists():
        numbers = read_json(folder / f"{CARD}.json")
        numbers["model"]["kept"] = False
        _write(folder, numbers)


def _write(folder: Path, numbers: dict[str, Any]) -> Path:
    write_json(folder / f"{CARD}.json", numbers, key=None)
    write_text(folder / f"{CARD}.md", markdown(numbers), key=None)
    return folder / f"{CARD}.md"


def markdown(numbers: dict[str, Any]) -> str:
    """The card as Markdown."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medvlmoe.analysis", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=lambda value: _cell(value) if isinstance(value, str) else value,  # names come from other hospitals
    )
    environment.filters |= {
        "number": _number,
        "area": _area,
        "by_block": lambda values: " / ".join(_number(value) for value in values.values()) or "-",
        "within": lambda name: str(name).rpartition("/")[2],
        "policy": lambda policy: ", ".join(f"{key} {value}" for key, value in policy.items()),
        "reasons": lambda counts: ", ".join(f"{count} {why}" for why, count in counts.items()) or "-",
    }
    vision = numbers["model"]["config"]["vision"]
    size = f"{vision['image_size']} px" + ("" if vision["depth"] is None else f", {vision['depth']} slices")
    page = environment.get_template("model_card.md").render(
        **{
            **numbers,
            "stamps": [(one, stamps.MEANINGS[one]) for one in numbers["stamps"]],
        },
        size=size,
        how_trained=_how_trained(numbers),
        version=version("medvlmoe"),
        text_encoder=_text_encoder(numbers),
        experts=_experts(numbers["model"]["config"]["moe"]),
        alone=numbers["mode"] in ALONE,
        counted=lambda split: f"{split['images']:,} ({split['patients']:,})",
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def _how_trained(numbers: dict[str, Any]) -> str:
    training, count = numbers["training"], len(numbers["sites"])
    hospitals = f"{count} site{'' if count == 1 else 's'}"
    if numbers["mode"] == "federated":
        return (
            f"federated over {hospitals}, {training['rounds']} rounds of {training['local_epochs']} epoch(s), merged "
            f"by `{training['strategy']}`, seed {numbers['seed']}"
        )
    kind = "on the pooled data of" if numbers["mode"] == "centralized" else "on the data of"
    return f"{kind} {hospitals}, up to {training['rounds']} epochs, seed {numbers['seed']}"


def _text_encoder(numbers: dict[str, Any]) -> str:
    text = numbers["model"]["config"]["text"]
    if text["encoder"] == "biogpt":
        return f"biogpt, {text['layers']} layers; weights: {numbers['training']['weights']['text'] or 'random'}"
    return {"embedding_bag": "a bag of words", "null_token": "none: one learned vector stands for every text"}[
        text["encoder"]
    ]


def _experts(moe: dict[str, Any]) -> str:
    shared = f", and to {moe['shared_experts']} shared one(s) beside them" if moe["shared_experts"] else ""
    start = "; started as copies of a trained single network" if moe["upcycle_from"] else ""
    count = f"{'up to ' if moe['top_p'] else ''}{moe['top_k']}"
    return f"{moe['experts']}, each {moe['unit']} goes to {count}{shared}; balance loss {moe['balance_alpha']}{start}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _area(entry: dict[str, Any]) -> str:
    if entry["auc"] is None:
        return "-"
    interval = entry["auc_ci"]
    return _number(entry["auc"]) + ("" if not interval else f" [{_number(interval[0])}, {_number(interval[1])}]")


def _cell(text: str) -> str:
    """One line that ends no cell of a table and starts no HTML."""
    return text.replace("\r", " ").replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")
