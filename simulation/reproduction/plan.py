"""Which cells a table or figure needs."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medvlmoe.analysis.reproduction.results import JOINT, JOINT_NEUTRAL
from medvlmoe.baselines import BASELINES
from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import CheckpointError, ConfigError, DataError
from medvlmoe.model.ablations import ABLATIONS, FULL
from medvlmoe.run_folder import OutputConfig
from simulation.reproduction.cell import Cell, folder_name, identity_of, precision_of
from simulation.reproduction.code_version import code_version
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.data_version import data_version
from simulation.reproduction.models import Configurator, GridModel, grid_model, with_backbones
from strategies.run_config import RunConfig

TABLE1, TABLE2, FIGURE2, FIGURE3 = "table1", "table2", "figure2", "figure3"
ARTEFACTS = (TABLE1, TABLE2, FIGURE2, FIGURE3)
NEUTRAL_PROMPT = "Medical image"


@dataclass(kw_only=True)
class Plan:
    """The cells to run, and those that cannot be.

    Attributes:
        pairs: (data set, model) of what was asked for.
        entries: cell by data set, model and seed, in the order in which they run: a seed of everything first, so that
            what is there can be compared. An ablation that changes nothing (8 experts of 8) has the whole model's cell.
        unreadable: reason by data set whose files cannot be read; their cells fail.
        impossible: reason by model that does not exist for this architecture.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    entries: dict[tuple[str, str, int], Cell] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """What there is to run, each once."""
        return list({cell.identity: cell for cell in self.entries.values()}.values())


def make_plan(config: ReproductionConfig, artefacts: Iterable[str], overrides: Sequence[str] = ()) -> Plan:
    """The cells of some tables and figures, each once.

    Args:
        config: the grid's configuration.
        artefacts: tables and figures.
        overrides: the command line that ``config`` was composed from.

    Raises:
        ConfigError: a model or data set is not there.
        DataError: no data set can be read.
    """
    pairs = list(dict.fromkeys(pair for artefact in artefacts for pair in pairs_of(config, artefact)))
    plan = Plan(pairs=pairs)
    configurator = Configurator(config, overrides)
    versions: dict[str, str] = {}
    for dataset in dict.fromkeys(name for pair in pairs for name in _sites_of(config, pair[0])):
        try:
            versions[dataset] = data_version(config.data.sites[dataset], config.data.root)
        except (ConfigError, DataError) as error:
            plan.unreadable[dataset] = str(error)
    if not versions:
        name, reason = next(iter(plan.unreadable.items()))
        raise DataError(f"site {name}: {reason}")
    for seed in config.seed_list():
        for dataset, model in pairs:
            if all(site in versions for site in _sites_of(config, dataset)):
                _add(plan, config, configurator, dataset, grid_model(model), seed, versions)
    return plan


def pairs_of(config: ReproductionConfig, artefact: str) -> list[tuple[str, str]]:
    """(data set, model) of one table or figure.

    Raises:
        ConfigError: a model or data set is not there.
    """
    unknown = [name for name in config.datasets if name not in config.data.sites]
    if unknown:
        raise ConfigError(f"datasets: no '{unknown[0]}' in data.sites; there are {', '.join(config.data.sites)}")
    if not config.data.sites:
        raise ConfigError("no data sets: choose data=phantom, data=benchmarks or data=real")
    taken = [name for name in config.data.sites if name in (JOINT, JOINT_NEUTRAL)]
    if taken:
        raise ConfigError(f"data.sites: '{taken[0]}' stands for all sites together in the grid; rename the site")
    for name in config.models:
        grid_model(name)
    everything = list(config.data.sites)
    if artefact == FIGURE3:
        return [(JOINT, FULL), (JOINT_NEUTRAL, FULL)]
    if artefact == TABLE2:
        datasets = config.datasets or _radiographs(config.data.sites) or everything[:1]
        models = [name for name in config.models or ABLATIONS if name in ABLATIONS]
    else:
        datasets = config.datasets or everything
        chosen = [name for name in config.models or BASELINES if name not in ABLATIONS]
        models = with_backbones(chosen, config.backbone)
    return [(dataset, model) for dataset in datasets for model in dict.fromkeys([FULL, *models])]


def joint_config(run: RunConfig, dataset: str) -> RunConfig:
    """The run that trains one model on all sites; for the control every site has the same constant prompt."""
    data = run.data
    if dataset == JOINT_NEUTRAL:
        sites = {name: replace(site, text="none", prompt=NEUTRAL_PROMPT, allow_label_leak=False)
                 for name, site in data.sites.items()}  # fmt: skip
        data = replace(data, sites=sites)
    return replace(run, mode="centralized", data=data)


def _radiographs(sites: dict[str, DatasetConfig]) -> list[str]:
    """The site of the paper's Table 2: the first that is ChestX-ray14."""
    return [name for name, site in sites.items() if site.kind == "chestxray14"][:1]


def _sites_of(config: ReproductionConfig, dataset: str) -> list[str]:
    return list(config.data.sites) if dataset in (JOINT, JOINT_NEUTRAL) else [dataset]


def _add(
    plan: Plan,
    config: ReproductionConfig,
    configurator: Configurator,
    dataset: str,
    model: GridModel,
    seed: int,
    versions: dict[str, str],
) -> Cell | None:
    key = (dataset, model.name, seed)
    if key in plan.entries:
        return plan.entries[key]
    first = None
    if model.needs is not None:
        first = _add(plan, config, configurator, dataset, grid_model(model.needs), seed, versions)
        if first is None:
            plan.impossible[model.name] = f"it starts from {model.needs}: {plan.impossible[model.needs]}"
            return None
    try:
        run = replace(configurator.of(model, None if first is None else first.weights), seed=seed)
        precision_of(run)  # this machine may lack the device: then the cell is impossible, and the rest is not
    except (ConfigError, CheckpointError) as error:
        plan.impossible[model.name] = str(error)
        return None
    if dataset in (JOINT, JOINT_NEUTRAL):
        run = joint_config(run, dataset)
    else:
        run = replace(run, data=replace(run.data, sites={dataset: config.data.sites[dataset]}))
    identity = identity_of(
        run,
        data=[versions[site] for site in _sites_of(config, dataset)],
        code=code_version(),
        start=None if first is None else first.identity,
    )
    same = next((cell for cell in plan.entries.values() if cell.identity == identity), None)
    if same is not None:
        plan.entries[key] = same
        return same
    output = OutputConfig(root=config.output.root, name=folder_name(dataset, model.name, seed, identity))
    cache = run.data.cache or str(Path(config.output.root) / "cache")
    run = replace(run, resume=True, output=output, data=dataclasses.replace(run.data, cache=cache))
    plan.entries[key] = Cell(
        dataset=dataset,
        model=model.name,
        seed=seed,
        config=run,
        identity=identity,
        needs=None if first is None else first.identity,
        keeps_weights=model.keeps_weights or config.keep_models,
    )
    return plan.entries[key]
