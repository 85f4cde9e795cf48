"""What privacy costs in AUC: the same federation at several epsilons, over several seeds.

Run: ``python benchmarks/privacy_utility.py data.root=FOLDER [mode=record|client]
[recipe=all|frozen|pretrained|lora] [seeds=0,1,2] [epsilons=inf,8,3,1] [minutes=9]
[output=runs/privacy_utility]``; FOLDER holds the real sites (configs/data/real.yaml).
A run that is already in the output folder is not repeated; when the minutes are over the script says what is left, and
the same command goes on.

``recipe=frozen`` keeps both encoders as they are initialised, so that few parameters get noise. ``recipe=pretrained``
keeps them as they come out of an ordinary training on public data: phantoms of pathology, retina and chest (drawn from
formulas) and the two real sets that are not among the sites (``covid``, ``idrid``). ``recipe=lora`` adds adapters of
rank 4 that learn. Both encoders of that training are the same for every seed and epsilon; phantoms and encoders are
made once, in the output folder.
"""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from medvlmoe.analysis.comparison import markdown
from medvlmoe.analysis.table import t_interval
from medvlmoe.data.phantom import PhantomConfig, generate_phantoms
from medvlmoe.files import load_tensors, read_json, save_tensors
from simulation.command import simulate, train

DELTA = 1e-5  # what a hospital allows at most by default (policy.max_delta)
COMMON = ("model=tiny", "data=real", "~data.sites.covid", "~data.sites.idrid", "data.augment=false",
          "model.moe.balance_alpha=0", "training.precision=float32", "training.patience=0", "federation.select=last",
          "federation.keep_optimizer_state=true", "training.bootstrap_resamples=10")  # fmt: skip
# Large batches: the noise is added once a batch. Few rounds for the server's noise, which is added once a round.
BY_MODE = {
    "record": ("training.batch_size=128", "training.warmup_epochs=0", "federation.rounds=3"),
    "client": ("training.batch_size=64", "federation.rounds=3", "federation.local_epochs=2"),
}
FROZEN = ("model.vision.trainable_blocks=0", "model.text.trainable_blocks=0", "training.head_learning_rate=5e-3")
# Convolutions of the small backbone without dilation: adapters are not dilated.
ADAPTED = "layer1.0.conv1,layer1.0.conv2,layer2.0.conv2,layer3.0.conv1,layer3.0.conv3"
ADAPTERS = ("model.vision.lora.rank=4", f"model.vision.lora.targets=[{ADAPTED}]", "model.text.lora.rank=4",
            "training.head_learning_rate=5e-3")  # fmt: skip
BY_RECIPE = {"all": (), "frozen": FROZEN, "pretrained": FROZEN, "lora": ADAPTERS}
PUBLIC = {"pathmnist": "kind: pathmnist, root: {root}/medmnist, size: 64",
          "retinamnist": "kind: retinamnist, root: {root}/medmnist, size: 64",
          "chestxray14": "kind: chestxray14, root: {root}/chestxray14, validation_fraction: 0.2"}  # fmt: skip


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


def public_encoders(data_root: str, output: Path) -> list[str]:
    """Overrides that load encoders trained on public data, which are made if they are not there."""
    folder, phantoms = output / "encoders", (output / "phantoms").absolute()
    if not (folder / "text.safetensors").exists():
        generate_phantoms(PhantomConfig(root=str(phantoms), images_per_site=400, benchmarks=list(PUBLIC)))
        sites = [f"+data.sites.{name}={{{text.format(root=phantoms)}}}" for name, text in PUBLIC.items()]
        private = [f"~data.sites.{name}" for name in ("nih_a", "nih_b", "colorectal")]
        with contextlib.redirect_stdout(sys.stderr):
            train(["model=tiny", "data=real", "training=from_scratch", "training.epochs=8", "training.patience=0",
                   "training.precision=float32", "data.augment=false", "data.leak_audit.action=skip",
                   "training.bootstrap_resamples=10", f"data.root={data_root}", f"data.cache={output / 'cache'}",
                   f"output.root={output}", "output.name=public", "resume=true", *private, *sites])  # fmt: skip
        tensors, _ = load_tensors(output / "public" / "checkpoints" / "final.safetensors")
        for part, prefix in (("vision", "vision.backbone."), ("text", "text.model.")):
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            save_tensors(folder / f"{part}.safetensors", own)
    return [f"model.{part}.weights={(folder / part).absolute()}.safetensors" for part in ("vision", "text")]


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
    if recipe in ("pretrained", "lora"):
        common += public_encoders(given["data.root"], output)
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
