"""The command ``medvlmoe reproduce``."""

import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from medvlmoe.analysis.reproduction.compare import with_comparisons, with_intervals
from medvlmoe.analysis.reproduction.results import FAILED, Results, write_results
from medvlmoe.configuration import compose, to_yaml
from medvlmoe.data.phantom import PhantomConfig, generate_phantoms
from medvlmoe.errors import EXIT_CELLS_FAILED, CheckpointError, ConfigError
from simulation.reproduction.collect import collect_results
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.grid import run_grid
from simulation.reproduction.plan import ARTEFACTS, FIGURE2, FIGURE3, Plan, make_plan, pairs_of
from simulation.reproduction.progress import told
from simulation.reproduction.write import write_artefact

_USAGE = """medvlmoe reproduce table1|table2|figure2|figure3|all [key=value ...]
The paper's tables and figures, from a grid of runs (docs/reproduction.md).
    medvlmoe reproduce table2 preset=tiny data=phantom seeds=1 output.root=runs
    medvlmoe reproduce all preset=paper data=benchmarks data.root=/data
Finished runs are found again and not repeated: give the same command after a crash, and it goes on.
Exit codes: 0 all is there, 5 some runs failed.
Keys and defaults (preset=tiny|small|paper chooses many at once):"""
_EVERYTHING = "all"


def reproduce(arguments: list[str]) -> int:
    """Run the cells that a table or figure needs, then write it to ``<output.root>/<output.name>``.

    The folder is by default named after what is in it, such as ``table2-tiny``; the runs themselves are in
    ``<output.root>/cells``, where every table and figure finds them.

    Raises:
        ConfigError: no such table or figure, an unknown key, or a model or data set that is not there.
        DataError: no data set can be read.
        CheckpointError: ``output.root`` cannot be written.
    """
    if not arguments or any(argument in ("-h", "--help", "help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(compose(ReproductionConfig, config_name='reproduce'))}")
        return 0
    wanted, overrides = artefacts_of(arguments)
    config = with_phantoms(compose(ReproductionConfig, overrides, config_name="reproduce"), overrides)
    plan = make_plan(config, wanted, overrides)
    if config.plan:
        _print_plan(plan)
        return 0
    _refuse_unwritable(Path(config.output.root))
    with told(plan.cells) as tell:
        failed = run_grid(plan.cells, config.jobs, tell)
    folder = Path(config.output.root) / (config.output.name or _folder_name(wanted, config.protocol))
    command = shlex.join(["medvlmoe", "reproduce", *arguments])
    results = collect_results(config, plan, failed, command, folder)
    pairs = {name: pairs_of(config, name) for name in wanted if name != FIGURE3}
    results = with_intervals(results, [pair for part in pairs.values() for pair in part])
    results = with_comparisons(results, {name: part for name, part in pairs.items() if name != FIGURE2})
    files, missing = [write_results(results)], {}
    for name in wanted:
        try:
            files += write_artefact(name, config, plan, results)
        except (ConfigError, CheckpointError) as error:  # what is there of the others is written all the same
            missing[name] = str(error)
    print("\n".join(map(str, files)))
    return _report_failures(results, missing)


def artefacts_of(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The tables and figures that are asked for, and the ``key=value`` arguments.

    Raises:
        ConfigError: a table or figure that there is none of, or none at all.
    """
    names = [argument for argument in arguments if "=" not in argument]
    if not names or any(name not in (*ARTEFACTS, _EVERYTHING) for name in names):
        unknown = next((name for name in names if name not in (*ARTEFACTS, _EVERYTHING)), None)
        what = "say what to reproduce" if unknown is None else f"'{unknown}' is not in the paper's results"
        raise ConfigError(f"{what}: medvlmoe reproduce {'|'.join((*ARTEFACTS, _EVERYTHING))} [key=value ...]")
    overrides = [argument for argument in arguments if "=" in argument]
    return [name for name in ARTEFACTS if name in names or _EVERYTHING in names], overrides


def with_phantoms(config: ReproductionConfig, overrides: Sequence[str]) -> ReproductionConfig:
    """With ``data=phantom`` and no ``data.root``, draw the phantoms below ``output.root`` unless they are there."""
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("data=")]
    if config.data.root is not None or (chosen or ["phantom"])[-1] != "phantom":
        return config
    root = Path(config.output.root) / f"phantom-{config.phantom_images}"
    generate_phantoms(PhantomConfig(root=str(root), images_per_site=config.phantom_images))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root)))


def _refuse_unwritable(root: Path) -> None:
    """Once and at once, instead of once a cell."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {root}: {error.strerror or error}; choose another output.root"
        ) from error


def _folder_name(wanted: Sequence[str], protocol: str) -> str:
    """``table2-tiny``: what was asked for has its own ``results.json``."""
    return f"{_EVERYTHING if list(wanted) == list(ARTEFACTS) else '-'.join(wanted)}-{protocol}"


def _print_plan(plan: Plan) -> None:
    for (dataset, model, seed), cell in plan.entries.items():
        state = "finished" if cell.summary() is not None else "to run"
        same = "" if (cell.dataset, cell.model) == (dataset, model) else f" (the same as {cell.model})"
        print(f"{state:<8}  {dataset} {model} seed {seed}{same}  {cell.folder}")
    for name, reason in {**plan.unreadable, **plan.impossible}.items():
        print(f"cannot run  {name}: {reason}")
    cells = plan.cells
    print(f"{len(cells)} runs, {sum(cell.summary() is not None for cell in cells)} of them finished")


def _report_failures(results: Results, missing: Mapping[str, str]) -> int:
    failed = [cell for cell in results.cells if cell.status == FAILED]
    for cell in failed:
        print(f"FAILED {cell.dataset} {cell.model} seed {cell.seed}: {cell.reason}", file=sys.stderr)
    for name, reason in missing.items():
        print(f"NOT WRITTEN {name}: {reason}", file=sys.stderr)
    return EXIT_CELLS_FAILED if failed or missing else 0
