"""Figure 3's numbers: where the joint models send the test samples of all sites."""

from pathlib import Path

from medvlmoe.analysis.figures.figure3 import RoutingPanel
from medvlmoe.analysis.reproduction.results import JOINT, JOINT_NEUTRAL
from medvlmoe.analysis.routing import RoutingTable, collect_routing
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import TensorFile
from medvlmoe.model import MedVLMoE
from medvlmoe.model.ablations import FULL
from medvlmoe.training.device import resolve_device
from simulation.alone import new_model
from simulation.reproduction.cell import Cell
from simulation.reproduction.plan import NEUTRAL_PROMPT, Plan
from simulation.sites import open_sites

TITLES = {JOINT: "own prompts", JOINT_NEUTRAL: f"control: every prompt is '{NEUTRAL_PROMPT}'"}
_PERMUTATIONS = 999


def routing_panels(plan: Plan) -> dict[int, list[RoutingPanel]]:
    """By seed the joint run and its control, where both are finished.

    Raises:
        CheckpointError: no seed has both.
    """
    seeds = {dataset: {seed for name, _, seed in plan.entries if name == dataset} for dataset in TITLES}
    panels = {}
    for seed in sorted(seeds[JOINT] & seeds[JOINT_NEUTRAL]):
        cells = {dataset: plan.entries[dataset, FULL, seed] for dataset in TITLES}
        if all(cell.summary() is not None for cell in cells.values()):
            panels[seed] = [
                RoutingPanel.of(TITLES[dataset], routing_of(cell), permutations=_PERMUTATIONS, seed=seed)
                for dataset, cell in cells.items()
            ]
    if not panels:
        raise CheckpointError("no seed has both the joint run and its control with the neutral prompt")
    return panels


def routing_of(cell: Cell) -> RoutingTable:
    """Routing of all test samples by the trained model; kept in the cell's folder, and read from there if it is."""
    path = Path(cell.folder) / "routing.safetensors"
    if path.exists():
        try:
            return RoutingTable.read(path)
        except CheckpointError:
            pass  # it is made again
    summary = cell.summary()
    assert summary is not None
    sites = open_sites(cell.config, splits=("test",))
    model = new_model("centralized", cell.config, sites)
    if not isinstance(model, MedVLMoE):
        raise ConfigError("figure3 needs a model with experts; leave model.variant=full")
    model.load_state_dict(dict(TensorFile(cell.weights)))
    model.to(resolve_device(cell.config.device))
    table = collect_routing(model, sites.split("test"), stamps=summary["stamps"])
    table.save(path)
    return table
