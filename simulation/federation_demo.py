"""``medvlmoe federation-demo``: a federation over the network on one machine, on synthetic data, ending in a table.

Kits are provisioned, server and hospitals started with the kits' own scripts, a run submitted with ``flwr run``, and
everything is ended again. Arguments are Hydra overrides.
"""

from pathlib import Path

from medvlmoe.analysis.comparison import print_table, rows_of
from medvlmoe.analysis.report import write_report
from medvlmoe.configuration import compose
from medvlmoe.data.phantom import PhantomConfig, generate_phantoms
from medvlmoe.files import read_json
from simulation.local_federation import LocalFederation
from strategies.run_config import RunConfig

_FOLDER = Path("runs/federation-demo")


def demo(arguments: list[str]) -> int:
    """Run the demonstration; returns the exit code.

    Raises:
        ConfigError: nginx is missing, or an override is wrong.
        FederationError: a part did not start, or the run failed.
    """
    overrides = ["experiment=federation_demo", *arguments]
    config = compose(RunConfig, overrides)
    data = _FOLDER / "phantom"
    generate_phantoms(PhantomConfig(root=str(data), images_per_site=150, benchmarks=list(config.data.sites)))
    with LocalFederation(_FOLDER, config.data.sites, data) as federation:
        print(
            f"server and {len(config.data.sites)} hospitals on https://{federation.config.public_address}", flush=True
        )
        federation.start_server()
        for name in config.data.sites:
            federation.start_hospital(name)
        federation.run(overrides)
        folder = federation.server_kit / config.output.root / str(config.output.name)
    write_report(folder)
    summary = read_json(folder / "summary.json")
    print_table(
        rows_of({"federated": summary}), f"Test AUC, 95 % interval (patient bootstrap), seed {config.seed}, over TLS"
    )
    print(f"{folder}/summary.json, report.html")
    return 0
