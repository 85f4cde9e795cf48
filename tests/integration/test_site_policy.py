"""Sites with a policy in a whole federation: what the server sees of it, and what stays."""

from pathlib import Path

import pytest

from client.app import build_app, simulated_site
from client.policy import SitePolicy
from client.receipts import ReceiptChain
from medvlmoe.configuration import compose
from medvlmoe.errors import QuorumError
from medvlmoe.files import read_json, read_json_lines
from server.app import run_federation
from simulation import InProcessGrid
from strategies.run_config import RunConfig

NAMES = ("chestxray14", "retinamnist")


def federate(output: Path, data: Path, policies: dict[str, SitePolicy], *more: str) -> None:
    config = compose(
        RunConfig,
        [
            "model=tiny", "training.bootstrap_resamples=10", "training.precision=float32", "federation.rounds=2",
            "~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist",
            f"data.root={data}", f"output.root={output}", "output.name=run", *more,
        ],
    )  # fmt: skip

    def site_of(context):
        site = simulated_site(config, NAMES[int(context.node_config["partition-id"])])
        site.policy = policies.get(site.name, SitePolicy())
        site.folder, site.simulated = str(output / "hospitals" / site.name), False
        return site

    run_federation(InProcessGrid(build_app(site_of), len(NAMES)), config)


def rounds(output: Path) -> list[dict]:
    return list(read_json_lines(output / "run" / "rounds.jsonl"))


def test_a_refusal_is_recorded_by_name_and_the_round_goes_on(tmp_path: Path, phantom_root: Path) -> None:
    policy = {"retinamnist": SitePolicy(max_rounds_per_run=1)}
    federate(tmp_path, phantom_root, policy, "federation.quorum=1")
    first, second = rounds(tmp_path)
    assert first["sites"]["retinamnist"]["outcome"] == "merged"
    assert second["sites"]["retinamnist"] == {
        "outcome": "refused by policy",
        "reason": "refused by policy: more rounds than the site allows (code 114)",
    }
    assert second["sites"]["chestxray14"]["outcome"] == "merged"
    site = tmp_path / "hospitals" / "retinamnist"
    kinds = [(receipt.kind, receipt.round) for receipt in ReceiptChain(site / "receipts.jsonl").receipts()]
    assert kinds[:3] == [("introduction", 0), ("training", 1), ("error", 0)]
    assert "max_rounds_per_run=1" in site.with_suffix(".log").read_text()
    assert "max_rounds_per_run" not in (tmp_path / "run" / "rounds.jsonl").read_text()


def test_a_federation_whose_sites_refuse_says_so(tmp_path: Path, phantom_root: Path) -> None:
    policy = {"retinamnist": SitePolicy(min_patients=10_000)}
    with pytest.raises(QuorumError, match=r"retinamnist: refused by policy: too few examples or patients \(code 118\)"):
        federate(tmp_path, phantom_root, policy, "federation.retries=0")
    assert "refused by policy" in read_json(tmp_path / "run" / "status.json")["sites"]["retinamnist"]["state"]


def test_withheld_metrics_are_missing_and_nothing_else(tmp_path: Path, phantom_root: Path) -> None:
    policy = {"retinamnist": SitePolicy(metrics=["train_loss"]), "chestxray14": SitePolicy(min_cell=8)}
    federate(tmp_path, phantom_root, policy)
    for line in rounds(tmp_path):
        retina, chest = (line["sites"][name] for name in ("retinamnist", "chestxray14"))
        # A stamp leaves whatever the policy says: it speaks of the data's kind, and a result must not lose it.
        assert set(retina) == {
            "outcome", "examples", "routed_samples", "update_norms", "train_loss", "stamp/PHANTOM"
        }  # fmt: skip
        assert chest["outcome"] == "merged" and all(count == 0 or count >= 8 for count in chest["routed_samples"])
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["sites"]["retinamnist"]["auc"] is None and summary["sites"]["retinamnist"]["n"] == 0
