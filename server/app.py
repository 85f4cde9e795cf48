"""The ServerApp: an ordinary Flower app around the round loop."""

import logging
import math
import shlex
from collections.abc import Sequence
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medvlmoe import stamps
from medvlmoe.configuration import compose, to_mapping
from medvlmoe.data.audit.reported import summary_of_numbers
from medvlmoe.data.known_labels import SUBSETS
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import QuorumError
from medvlmoe.files import copy_file
from medvlmoe.logs import show_progress
from medvlmoe.model.groups import parameter_group
from medvlmoe.run_folder import RunFolder, peak_memory_bytes
from server.global_model import GlobalModel
from server.heap import forget_imports
from server.inbox import is_networked
from server.model_process import initial_model, model_to_resume
from server.roster import Roster
from server.rounds import RoundLoop
from strategies import build_strategy
from strategies.client_level import ClientLevelPrivacy
from strategies.messages import Metric
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``overrides`` of the Flower run configuration describes."""
    show_progress("medvlmoe", "strategies", "server")
    forget_imports()
    run_federation(grid, compose(RunConfig, shlex.split(str(context.run_config.get("overrides", "")))))


def run_federation(grid: Grid, config: RunConfig) -> dict[str, Any]:
    """Wait for the sites, run the rounds, evaluate on every site's test split, write ``summary.json``.

    Returns:
        The summary.

    Raises:
        QuorumError: too few sites.
        ConfigError, CheckpointError: the run folder is taken, of another configuration, or cannot be written.
    """
    roster = Roster(grid, config.federation)
    label_space = roster.gather()
    name = f"federated-seed{config.seed}"
    model = _model(grid, config, label_space, goes_on=config.resume and RunFolder.has_checkpoint(config.output, name))
    privacy = _client_level(config, model, len(roster.nodes))
    strategy = build_strategy(
        config.strategy,
        expert_count=config.model.expert_count,
        label_count=len(label_space.labels),
        quorum=config.federation.quorum or len(roster.nodes),
        privacy=privacy,
    )
    # The folder comes last: a mistake found above leaves nothing behind.
    folder = RunFolder.open(config.output, name, to_mapping(config), resume=config.resume)
    loop = RoundLoop(grid, roster, model, strategy, config, folder)
    try:
        summary = _run(loop, config, folder)
    except BaseException as error:
        loop.status.failed(error)
        raise
    loop.status.phase("finished")
    return summary


def _run(loop: RoundLoop, config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    loop.run()
    copy_file(loop.model_file(), folder.checkpoints / "final.safetensors")
    loop.status.phase("testing")
    metrics_by_site = loop.evaluate(("test",)) if loop.privacy.measures else {}
    if not metrics_by_site and loop.privacy.measures:
        raise QuorumError(f"no site could evaluate the final model, {folder.checkpoints / 'final.safetensors'}")
    summary = summarize(config, metrics_by_site, loop.state.round, folder.seconds(), loop.state.stamps)
    summary |= loop.privacy.summary(loop.state)
    for metrics in metrics_by_site.values():
        loop.privacy.note_metrics(metrics)
    loop.privacy.write_statement(loop.state, list(loop.roster.nodes))
    folder.write_summary(summary)
    from medvlmoe.analysis.card import write_cards  # here, for the same reason as the model's own process

    write_cards(folder.path)
    return summary


def _model(grid: Grid, config: RunConfig, label_space: LabelSpace, *, goes_on: bool) -> GlobalModel:
    if is_networked(grid):
        if goes_on:
            return model_to_resume(config.model, label_space)
        return initial_model(config.model, label_space, config.seed, config.output.root)
    if goes_on:
        return GlobalModel.to_resume(config.model, label_space)
    return GlobalModel.initial(config.model, label_space, config.seed)


def _client_level(config: RunConfig, model: GlobalModel, connected: int) -> ClientLevelPrivacy | None:
    if not config.privacy.covers_hospitals:
        return None
    return ClientLevelPrivacy(
        config.privacy.client,
        groups=[parameter_group(name) for name in model.exchanged],
        site_count=config.federation.expected_sites or connected,
        rounds=config.federation.rounds,
        kind=config.privacy.accountant,
    )


def summarize(
    config: RunConfig,
    metrics_by_site: dict[str, dict[str, Metric]],
    rounds: int,
    seconds: float,
    model_stamps: Sequence[str] = (),
) -> dict[str, Any]:
    """``summary.json`` of a federated run from the sites' evaluation replies."""
    sites = {site: _site_summary(metrics, model_stamps) for site, metrics in sorted(metrics_by_site.items())}
    defined = [entry["auc"] for entry in sites.values() if entry["auc"] is not None]
    return {
        "mode": "federated",
        "seed": config.seed,
        "rounds": rounds,
        "sites": sites,
        "mean_auc": sum(defined) / len(defined) if defined else None,
        "stamps": stamps.in_order([*model_stamps, *(stamp for entry in sites.values() for stamp in entry["stamps"])]),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _site_summary(metrics: dict[str, Metric], model_stamps: Sequence[str]) -> dict[str, Any]:
    def number(name: str) -> float | None:
        value = metrics.get(f"test/{name}")
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    low, high = number("auc_low"), number("auc_high")
    return {
        "split": "test",
        "n": int(number("n") or 0),
        "auc": number("auc"),
        "auc_ci": [low, high] if low is not None and high is not None else None,
        "labels_averaged": int(number("labels_averaged") or 0),
        "accuracy": number("accuracy"),
        "subset_auc": {
            subset.name: {
                "auc": number(f"subset/{subset.name}/auc"),
                "labels_averaged": int(number(f"subset/{subset.name}/labels_averaged") or 0),
            }
            for subset in SUBSETS
            if number(f"subset/{subset.name}/labels_averaged") is not None
        },
        **summary_of_numbers(metrics),
        "stamps": stamps.in_order([*model_stamps, *stamps.of_numbers(metrics)]),
    }
