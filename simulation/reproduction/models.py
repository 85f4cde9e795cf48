"""The models of the grid: the whole MedVLMoE, its ablations, and the paper's five baselines."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from medvlmoe.analysis.reproduction.paper_values import SHARED
from medvlmoe.baselines import BASELINES, BaselineConfig
from medvlmoe.configuration import compose
from medvlmoe.errors import ConfigError
from medvlmoe.model.ablations import ABLATIONS, FULL
from simulation.baseline import with_baseline_inputs
from simulation.reproduction.config import ReproductionConfig
from strategies.run_config import RunConfig


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
    if name.removesuffix(SHARED) in BASELINES:
        return GridModel(name=name, mode="baseline")
    known = [FULL, *BASELINES, *(f"{baseline}{SHARED}" for baseline in BASELINES), *ABLATIONS]
    raise ConfigError(f"models: no '{name}'; there are {', '.join(known)}")


def with_backbones(names: Iterable[str], backbone: str) -> list[str]:
    """Baselines under the names of their encoders: ``convirt`` has the published ones, ``convirt_shared`` ours."""
    endings = {"published": [""], "shared": [SHARED], "both": ["", SHARED]}[backbone]
    found = [name + ending if name in BASELINES else name for name in names for ending in endings]
    return list(dict.fromkeys(found))


class Configurator:
    """Run configurations by model.

    Args:
        base: the grid's configuration; its ``model`` is the whole model.
        overrides: the command line that it was composed from. A baseline's configuration is composed from it anew,
            because every baseline has a file of its own in ``configs/baseline``.
    """

    def __init__(self, base: ReproductionConfig, overrides: Sequence[str]) -> None:
        self._base, self._overrides = base, list(overrides)
        self._baselines: dict[str, RunConfig] = {}

    def of(self, model: GridModel, start: Path | None = None) -> RunConfig:
        """A run of this model, before data set, seed and folder are set.

        Args:
            model: the model.
            start: weights of the model that this one ``needs``.

        Raises:
            ConfigError: the model does not exist for this architecture.
            CheckpointError: weights of its encoders are not there.
        """
        if model.mode == "baseline":
            if model.name not in self._baselines:
                self._baselines[model.name] = self._baseline(model.name)
            return self._baselines[model.name]
        # What is said of the baselines does not concern it, and must not make its results old.
        run = dataclasses.replace(self._base.run_config(), mode=model.mode, baseline=BaselineConfig())
        if model.name not in ABLATIONS:
            return run
        architecture = ABLATIONS[model.name].apply(run.model)
        if start is not None:
            architecture = dataclasses.replace(
                architecture, moe=dataclasses.replace(architecture.moe, upcycle_from=str(start))
            )
        return dataclasses.replace(run, model=architecture)

    def _baseline(self, name: str) -> RunConfig:
        chosen = f"baseline={name.removesuffix(SHARED)}"
        run = compose(ReproductionConfig, [*self._overrides, chosen], config_name="reproduce").run_config()
        baseline = dataclasses.replace(run.baseline, backbone="shared" if name.endswith(SHARED) else "published")
        if self._base.text_at_test == "concat":
            baseline = dataclasses.replace(baseline, text_at_test="concat")
        run = dataclasses.replace(run, mode="baseline", baseline=baseline, data=self._base.data)
        return dataclasses.replace(run, model=with_baseline_inputs(run))
