"""Model cards of a simulation: here whoever runs it knows the sites' data."""

import logging
from pathlib import Path

from medvlmoe.analysis.card import write_cards
from medvlmoe.analysis.card.numbers import DATA_FACTS
from medvlmoe.data import SiteDataset
from medvlmoe.files import write_json
from simulation.sites import SimulatedSites

logger = logging.getLogger(__name__)


def write_simulation_cards(folder: Path, sites: SimulatedSites) -> None:
    """Write ``data.json`` (what the sites' data are) and the card of every model of a finished run."""
    left_out = sites.left_out()
    facts = {
        name: {
            "kind": sites.sites[name].dataset.kind,
            "policy": sites.sites[name].dataset.policies(),
            "splits": {split: _counts(dataset) for split, dataset in splits.items()},
            "left_out": left_out.get(name, {}),
            "notes": next(iter(splits.values())).notes,
        }
        for name, splits in sites.data.items()
    }
    write_json(folder / DATA_FACTS, facts)
    for path in write_cards(folder):
        logger.info("%s", path)


def _counts(dataset: SiteDataset) -> dict[str, int]:
    return {"images": len(dataset), "patients": len(set(dataset.patient_ids))}
