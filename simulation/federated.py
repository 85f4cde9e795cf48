"""A federation on one machine: the ServerApp and ClientApp of a networked one, through another Grid."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from client.app import build_app, simulated_site, site_from_context
from medvlmoe.errors import ConfigError, QuorumError
from server.app import app as server_app
from server.app import run_federation
from simulation.in_process_grid import InProcessGrid
from strategies.run_config import RunConfig


def run_federated(config: RunConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the federation of ``data.sites`` and return its summary.

    Args:
        config: the run's configuration.
        overrides: the Hydra overrides that it was composed from; the sites compose it again, as Flower nodes do.
    """
    run = _run_on_ray if config.simulation.engine == "ray" else _run_in_process
    run(config, overrides)
    folder = Path(config.output.root) / (config.output.name or f"federated-seed{config.seed}")
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def _run_in_process(config: RunConfig, overrides: Sequence[str]) -> None:
    run_config: dict[str, str | int | float | bool] = {"overrides": shlex.join(overrides)}
    errors: list[Exception] = []
    # The ClientApp of a networked site, except that here whoever runs the server may see what went wrong at a site.
    grid = InProcessGrid(build_app(site_from_context, errors.append), len(config.data.sites), run_config)
    try:
        server_app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config))
    except QuorumError as error:
        if errors:  # say what happened at a site, such as a full disk, instead of "too few sites"
            raise errors[-1] from error
        raise


def _run_on_ray(config: RunConfig, overrides: Sequence[str]) -> None:
    try:
        import ray  # noqa: F401
        from flwr.simulation import run_simulation
    except ImportError as error:
        raise ConfigError("simulation.engine=ray needs Ray: pip install 'medvlmoe[ray]'") from error
    # Flower's run_simulation passes no run configuration, so here the apps carry it themselves.
    names = sorted(config.data.sites)
    ray_server = ServerApp()
    failures: list[Exception] = []

    @ray_server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            run_federation(grid, config)
        except Exception as error:  # Flower logs and swallows it; the command needs it
            failures.append(error)
            raise

    ray_client = build_app(lambda context: simulated_site(config, names[int(context.node_config["partition-id"])]))
    run_simulation(
        server_app=ray_server,
        client_app=ray_client,
        num_supernodes=len(names),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if failures:
        raise failures[0]
