"""Model cards of a simulation: here whoever runs it knows the sites' data."""

import logging
from pathlib import Path
from typing import Any

from medvlmoe.analysis.card import write_cards
from medvlmoe.analysis.card.numbers import DATA_FACTS
from medvlmoe.data import SiteDataset
from medvlmoe.data.config import DatasetConfig
from medvlmoe.files import write_json
from simulation.sites import SimulatedSites

# How labels and text were read, by the kind of data set that has the choice.
_POLICIES = {
    "chestxray14": ("split", "text"),
    "chexpert": ("split", "uncertain", "blank", "views", "text"),
    "mimic_cxr": ("split", "uncertain", "blank", "views", "labeler", "test_labels", "text"),
    "pathmnist": ("size", "text"),
    "retinamnist": ("size", "text"),
    "manifest": ("split", "uncertain", "text"),
}

logger = logging.getLogger(__name__)


def write_simulation_cards(folder: Path, sites: SimulatedSites) -> None:
    """Write ``data.json`` (what the sites' data are) and the card of every model of a finished run."""
    left_out = sites.left_out()
    facts = {
        name: {
            "kind": sites.sites[name].dataset.kind,
            "policy": _policy(sites.sites[name].dataset),
            "splits": {split: _counts(dataset) for split, dataset in splits.items()},
            "left_out": left_out.get(name, {}),
            "notes": next(iter(splits.values())).notes,
        }
        for name, splits in sites.data.items()
    }
    write_json(folder / DATA_FACTS, facts)
    for path in write_cards(folder):
        logger.info("%s", path)


def _policy(config: DatasetConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in _POLICIES[config.kind]}


def _counts(dataset: SiteDataset) -> dict[str, int]:
    return {"images": len(dataset), "patients": len(set(dataset.patient_ids))}
