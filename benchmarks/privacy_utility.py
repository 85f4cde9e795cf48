"""What privacy costs in AUC: the same federation at several epsilons, over several seeds.

Run: ``python benchmarks/privacy_utility.py data.root=FOLDER [mode=record|client] [recipe=all|frozen] [seeds=0,1,2]
[epsilons=inf,8,3,1] [minutes=9] [output=runs/privacy_utility]``; FOLDER holds the real sites (configs/data/real.yaml).
A run that is already in the output folder is not repeated; when the minutes are over the script says what is left, and
the same command goes on.

``recipe=frozen`` keeps both encoders as they are initialised, so that few parameters get noise.
"""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from medvlmoe.analysis.comparison import markdown
from medvlmoe.analysis.table import t_interval
from medvlmoe.files import read_json
from simulation.command import simulate

DELTA = 1e-5  # what a hospital allows at most by default (policy.max_delta)
COMMON = ("model=tiny", "data=real", "~data.sites.covid", "~data.sites.idrid", "data.augment=false",
          "model.moe.balance_alpha=0", "training.precision=float32", "training.patience=0", "federation.select=last",
          "federation.keep_optimizer_state=true", "training.bootstrap_resamples=10")  # fmt: skip
# Large batches: the noise is added once a batch. Few rounds for the server's noise, which is added once a round.
BY_MODE = {
    "record": ("training.batch_size=128", "training.warmup_epochs=0", "federation.rounds=3"),
    "client": ("training.batch_size=64", "federation.rounds=3", "federation.local_epochs=2"),
}
BY_RECIPE = {
    "all": (),
    "frozen": (
        "model.vision.trainable_blocks=0",
        "model.text.trainable_blocks=0",
        "training.head_learning_rate=5e-3",
    ),
}


def overrides_of(mode: str, epsilon: str) -> list[str]:
    """The privacy of a run. Metrics are released, or there would be no table."""
    if epsilon == "inf":
        return []
    of = "privacy." if mode == "record" else "privacy.client."
    return [f"privacy={mode}", f"{of}target_epsilon={epsilon}", f"{of}delta={DELTA}", "privacy.release_evaluation=true"]


def run(name: str, overrides: list[str], output: Path) -> dict[str, Any]:
    summary = output / name / "summary.json"
    if not summary.exists():
        with contextlib.redirect_stdout(sys.stderr):  # its own table
            simulate([*overrides, f"output.root={output}", f"output.name={name}", "resume=true"])
    return read_json(summary)


def epsilon_spent(summary: dict[str, Any], mode: str) -> str:
    privacy = summary.get("privacy")
    if privacy is None:
        return "-"
    spent = (
        [entry["epsilon"] for entry in privacy["hospitals"].values()]
        if mode == "record"
        else [privacy["client"]["epsilon"]]
    )
    return f"{max(spent):.2f}"


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    mode, recipe = given.get("mode", "record"), given.get("recipe", "all")
    seeds, epsilons = given.get("seeds", "0,1,2").split(","), given.get("epsilons", "inf,8,3,1").split(",")
    output = Path(given.get("output", "runs/privacy_utility"))
    end = time.monotonic() + 60 * float(given.get("minutes", "9"))
    common = [f"data.root={given['data.root']}", f"data.cache={output / 'cache'}", *COMMON, *BY_MODE[mode],
              *BY_RECIPE[recipe]]  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {epsilon: [] for epsilon in epsilons}
    left: list[str] = []
    for seed in seeds:  # all epsilons of a seed first: a table can be read early
        for epsilon in epsilons:
            name = f"{mode}-{recipe}-epsilon{epsilon}-seed{seed}"
            if time.monotonic() > end and not (output / name / "summary.json").exists():
                left.append(name)
                continue
            found[epsilon].append(run(name, [*common, f"seed={seed}", *overrides_of(mode, epsilon)], output))
    sites = sorted({site for runs in found.values() for summary in runs for site in summary["sites"]})
    rows = [["target epsilon", "spent", "seeds", *sites, "mean of sites"]]
    for epsilon, runs in found.items():
        if runs:
            aucs = [[summary["sites"][site]["auc"] for summary in runs] for site in sites]
            cells = [_cell(values) for values in (*aucs, [summary["mean_auc"] for summary in runs])]
            rows.append([epsilon, epsilon_spent(runs[0], mode), str(len(runs)), *cells])
    print(markdown(rows))
    if left:
        print(f"not run yet: {', '.join(left)}; the same command goes on")


def _cell(values: list[float]) -> str:
    mean, half = t_interval(values)
    return f"{mean:.3f} ± {half:.3f}" if len(values) > 1 else f"{mean:.3f}"


if __name__ == "__main__":
    main()
