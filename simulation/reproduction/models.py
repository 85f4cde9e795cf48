"""The models of the grid: the whole MedVLMoE, its ablations, and the paper's five baselines."""

import dataclasses
from pathlib import Path

from medvlmoe.errors import ConfigError
from medvlmoe.model.ablations import ABLATIONS, FULL
from simulation.reproduction.config import ReproductionConfig
from strategies.run_config import RunConfig

BASELINES: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridModel:
    """A model of the grid.

    Attributes:
        name: its name on the command line and in ``results.json``.
        mode: mode of its run.
        needs: the model whose trained weights it starts from.
        keeps_weights: whether its weights are kept once its cell is finished: a figure or another model needs them.
    """

    name: str
    mode: str = "local"
    needs: str | None = None
    keeps_weights: bool = False


def grid_model(name: str) -> GridModel:
    """Look a model up by its name in the grid.

    Raises:
        ConfigError: there is none.
    """
    if name == FULL:
        return GridModel(name=name, keeps_weights=True)
    if name in ABLATIONS:
        needed = {ablation.needs for ablation in ABLATIONS.values()}
        return GridModel(name=name, needs=ABLATIONS[name].needs, keeps_weights=name in needed)
    raise ConfigError(f"models: no '{name}'; there are {', '.join([FULL, *ABLATIONS])}")


def configure(model: GridModel, base: ReproductionConfig, start: Path | None = None) -> RunConfig:
    """The configuration of a run of this model, before data set, seed and folder are set.

    Args:
        model: the model.
        base: the grid's configuration; its ``model`` is the whole model.
        start: weights of the model that this one ``needs``.
    """
    run = dataclasses.replace(base.run_config(), mode=model.mode)
    if model.name not in ABLATIONS:
        return run
    architecture = ABLATIONS[model.name].apply(run.model)
    if start is not None:
        architecture = dataclasses.replace(
            architecture, moe=dataclasses.replace(architecture.moe, upcycle_from=str(start))
        )
    return dataclasses.replace(run, model=architecture)
