"""Record-level privacy in whole federations: accounted at the hospitals, stopped by them, nothing else sent."""

from pathlib import Path

import pytest

import client.site
from client.account import budget_of
from client.app import build_app, simulated_site
from client.policy import SitePolicy
from medvlmoe.command_line import run as command_line
from medvlmoe.configuration import compose
from medvlmoe.errors import CheckpointError, QuorumError
from medvlmoe.files import read_json, read_json_lines
from medvlmoe.privacy.accountant import Accountant
from server.app import run_federation
from simulation import InProcessGrid
from simulation.sites import open_sites
from strategies.run_config import RunConfig

NAMES = ("chestxray14", "retinamnist")
COMMON = ["model=tiny", "training.bootstrap_resamples=10", "privacy=record", "federation.rounds=2",
          "training.batch_size=16", "~data.sites.chexpert", "~data.sites.mimic_cxr",
          "~data.sites.pathmnist"]  # fmt: skip


def federate(
    output: Path, data: Path, policies: dict[str, SitePolicy], *more: str, keep_reply: bool = True
) -> list[dict]:
    config = compose(
        RunConfig, [*COMMON, f"data.root={data}", f"output.root={output}", "output.name=run", *more]
    )  # fmt: skip

    def site_of(context):
        site = simulated_site(config, NAMES[int(context.node_config["partition-id"])])
        site.policy, site.keep_reply = policies.get(site.name, SitePolicy()), keep_reply
        site.folder, site.simulated = str(output / "hospitals" / site.name), False
        return site

    run_federation(InProcessGrid(build_app(site_of), len(NAMES)), config)
    return rounds(output)


def rounds(output: Path) -> list[dict]:
    return list(read_json_lines(output / "run" / "rounds.jsonl"))


def ledger(output: Path, site: str) -> list[dict]:
    """What was charged for good."""
    lines = read_json_lines(output / "hospitals" / site / "privacy.jsonl")
    return [line for line in lines if line["state"] == "released"]


def test_a_target_is_met_and_nothing_uncovered_leaves(tmp_path: Path, phantom_root: Path) -> None:
    lines = federate(tmp_path, phantom_root, {}, "privacy.counts_noise=5.0")
    for name in NAMES:
        last = lines[-1]["sites"][name]
        assert set(last) == {
            "outcome", "examples", "routed_samples", "update_norms", "train_steps", "stamp/PHANTOM",
            *(f"privacy/{key}" for key in ("epsilon", "delta", "noise_multiplier", "sampling_rate", "steps",
                                            "max_grad_norm", "counts_noise", "epsilon_before", "by_patient",
                                            "earlier_accounts", "releases_again")),
        }  # fmt: skip
        assert 7.8 < last["privacy/epsilon"] <= 8.0
        assert lines[0]["sites"][name]["privacy/epsilon"] < last["privacy/epsilon"]
        assert all(count >= 0 for count in last["routed_samples"])
        spent = [mechanism for line in ledger(tmp_path, name) for mechanism in Accountant.from_dict(line).spent]
        assert Accountant("rdp", spent).epsilon(1e-5) == pytest.approx(last["privacy/epsilon"])
    summary = read_json(tmp_path / "run" / "summary.json")
    assert all(entry["auc"] is None for entry in summary["sites"].values())  # test records have no noise either
    assert summary["privacy"]


def test_the_unit_is_the_patient_where_the_data_tell_them(tmp_path: Path, phantom_root: Path) -> None:
    """The phantom of ChestX-ray14 has several images of a patient, that of RetinaMNIST tells no patients."""
    federate(tmp_path, phantom_root, {}, "privacy.unit=patient", "privacy.counts_noise=5.0", "federation.rounds=1")
    (line,) = rounds(tmp_path)
    config = compose(RunConfig, [*COMMON, f"data.root={phantom_root}"])
    sites = open_sites(config, splits=("train",)).split("train")
    patients = len(set(sites["chestxray14"].patient_ids))
    assert patients < len(sites["chestxray14"])
    assert line["sites"]["chestxray14"]["examples"] == patients, "the number of images is a patient's secret too"
    assert line["sites"]["chestxray14"]["privacy/sampling_rate"] == min(1.0, 16 / patients)
    assert line["sites"]["retinamnist"]["examples"] == len(sites["retinamnist"])
    hospitals = read_json(tmp_path / "run" / "summary.json")["privacy"]["hospitals"]
    assert {name: hospitals[name]["unit"] for name in NAMES} == {"chestxray14": "patient", "retinamnist": "image"}
    assert "**The data of retinamnist tell no patients" in (tmp_path / "run" / "privacy.md").read_text()
    assert ledger(tmp_path, "chestxray14")[0]["unit"] == "patient"


def test_loads_of_the_last_merge_balance_the_next_round(tmp_path: Path, phantom_root: Path) -> None:
    """A round's requests bring the shares of the round before, which are those of the noised counts and no others."""
    asked: list[list[float]] = []
    original = client.site.open_round

    def noting(site, request, units):
        asked.append(request.expert_loads)
        opened = original(site, request, units)
        assert (opened.steps.loads_K is None) == (request.round == 1)
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.site, "open_round", noting)
        lines = federate(tmp_path, phantom_root, {}, "privacy.counts_noise=5.0", "privacy.balance_alpha=0.1")
    counts = [lines[0]["sites"][name]["routed_samples"] for name in NAMES]
    total = [sum(pair) for pair in zip(*counts, strict=True)]
    expected = [count / sum(total) for count in total]
    assert asked[:2] == [[], []] and asked[2] == asked[3] == pytest.approx(expected)


@pytest.mark.long
def test_the_hospital_stops_before_its_cap_and_a_new_run_goes_on_counting(tmp_path: Path, phantom_root: Path) -> None:
    policy = SitePolicy(differential_privacy_required=True, max_epsilon=6.0)
    noise = ("privacy.target_epsilon=null", "privacy.noise_multiplier=1.0", "federation.quorum=1")
    first, second = federate(tmp_path, phantom_root, {"retinamnist": policy}, *noise, "federation.rounds=2")
    spent = first["sites"]["retinamnist"]["privacy/epsilon"]
    whole = second["sites"]["chestxray14"]["privacy/epsilon"]
    assert spent < 6 < whole
    assert second["sites"]["retinamnist"] == {
        "outcome": "refused by policy",
        "reason": "refused by policy: the site's privacy budget is spent (code 121)",
    }
    assert len(ledger(tmp_path, "retinamnist")) == 1
    log = (tmp_path / "hospitals" / "retinamnist.log").read_text()
    assert "policy.max_epsilon=6" in log and f"epsilon is {spent:.3f}" in log
    again = federate(
        tmp_path, phantom_root, {"retinamnist": policy}, *noise, "federation.rounds=1", "output.overwrite=true"
    )
    assert again[0]["sites"]["retinamnist"]["outcome"] == "refused by policy"
    assert again[0]["sites"]["chestxray14"]["privacy/epsilon_before"] == pytest.approx(whole)
    assert again[0]["sites"]["chestxray14"]["privacy/epsilon"] > whole


@pytest.mark.long
def test_a_resumed_run_has_spent_what_an_uninterrupted_one_has(tmp_path: Path, phantom_root: Path) -> None:
    noise = ("privacy.target_epsilon=null", "privacy.noise_multiplier=2.0")
    whole = federate(tmp_path / "whole", phantom_root, {}, *noise)
    config = [*noise, "federation.rounds=2"]
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "part", phantom_root, config)
    assert len(ledger(tmp_path / "part", "chestxray14")) == 1
    resumed = federate(tmp_path / "part", phantom_root, {}, *config, "resume=true")
    for name in NAMES:
        for key in ("privacy/epsilon", "privacy/steps", "privacy/epsilon_before"):
            assert resumed[-1]["sites"][name][key] == whole[-1]["sites"][name][key], key


def _interrupted(output: Path, data: Path, config: list[str]) -> None:
    from server.rounds import RoundLoop

    original = RoundLoop._run_round

    def interrupt(self, server_round: int) -> None:
        if server_round == 2:
            raise KeyboardInterrupt
        original(self, server_round)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoundLoop, "_run_round", interrupt)
        federate(output, data, {}, *config)


@pytest.mark.parametrize("codec", ["float32", "int8"])
def test_a_run_interrupted_in_training_resumes_to_the_epsilon_of_an_uninterrupted_one(
    tmp_path: Path, phantom_root: Path, codec: str
) -> None:
    """In the middle of round 2 at the first hospital; what it had trained is in no later round either."""
    config = ["privacy.target_epsilon=null", "privacy.noise_multiplier=2.0", f"strategy.upload_codec={codec}",
              "federation.keep_optimizer_state=true"]  # fmt: skip
    whole = federate(tmp_path / "whole", phantom_root, {}, *config)
    with pytest.raises(KeyboardInterrupt):
        _stopped_in_training(tmp_path / "part", phantom_root, config, NAMES[0], KeyboardInterrupt())
    (first,) = ledger(tmp_path / "part", NAMES[0])
    states = tmp_path / "part" / "hospitals" / NAMES[0] / "state" / first["run"]
    assert not list(states.glob("*-00002*")) and not list(states.glob("staged*"))
    resumed = federate(tmp_path / "part", phantom_root, {}, *config, "resume=true")
    for name in NAMES:
        assert len(ledger(tmp_path / "part", name)) == 2
        for key in ("epsilon", "steps", "epsilon_before", "releases_again"):
            key = f"privacy/{key}"
            assert resumed[-1]["sites"][name][key] == whole[-1]["sites"][name][key], key
    assert "released more than once" not in (tmp_path / "part" / "run" / "privacy.md").read_text()


def test_what_had_left_before_the_interruption_leaves_again_and_costs_nothing(
    tmp_path: Path, phantom_root: Path
) -> None:
    config = ["privacy.target_epsilon=null", "privacy.noise_multiplier=2.0"]
    whole = federate(tmp_path / "whole", phantom_root, {}, *config)
    with pytest.raises(KeyboardInterrupt):
        _stopped_in_training(tmp_path / "part", phantom_root, config, NAMES[1], KeyboardInterrupt())
    resumed = federate(tmp_path / "part", phantom_root, {}, *config, "resume=true")
    assert [len(ledger(tmp_path / "part", name)) for name in NAMES] == [2, 2]
    first = read_json_lines(tmp_path / "part" / "hospitals" / NAMES[0] / "receipts.jsonl")
    assert [line["kind"] for line in first if line["round"] == 2][:2] == ["training", "repetition"]
    for name in NAMES:
        for key in ("privacy/epsilon", "privacy/releases_again"):
            assert resumed[-1]["sites"][name][key] == whole[-1]["sites"][name][key], key
    assert "released more than once" not in (tmp_path / "part" / "run" / "privacy.md").read_text()


def test_a_hospital_that_keeps_no_reply_pays_twice_and_the_statement_says_so(
    tmp_path: Path, phantom_root: Path
) -> None:
    config = ["privacy.target_epsilon=null", "privacy.noise_multiplier=2.0"]
    with pytest.raises(KeyboardInterrupt):
        _stopped_in_training(tmp_path, phantom_root, config, NAMES[1], KeyboardInterrupt(), keep_reply=False)
    resumed = federate(tmp_path, phantom_root, {}, *config, "resume=true", keep_reply=False)
    assert [len(ledger(tmp_path, name)) for name in NAMES] == [3, 2]
    last = resumed[-1]["sites"]
    assert [last[name]["privacy/releases_again"] for name in NAMES] == [1, 0]
    assert last[NAMES[0]]["privacy/epsilon"] > last[NAMES[1]]["privacy/epsilon"]
    text = (tmp_path / "run" / "privacy.md").read_text()
    assert f"released more than once, and how often: {NAMES[0]} (1).**" in text


@pytest.mark.parametrize(
    ("error", "code", "charged"),
    [(CheckpointError("the disk is full"), 103, [1, 2]), (MemoryError(), 105, [1, 2, 2])],
)
def test_an_error_in_training_costs_only_if_it_may_tell_of_the_records(
    tmp_path: Path, phantom_root: Path, error: Exception, code: int, charged: list[int]
) -> None:
    config = ["federation.retries=1", "federation.quorum=2"]
    _stopped_in_training(tmp_path, phantom_root, config, NAMES[0], error)
    assert [line["round"] for line in ledger(tmp_path, NAMES[0])] == charged
    codes = [line["code"] for line in read_json_lines(tmp_path / "hospitals" / NAMES[0] / "receipts.jsonl")]
    assert codes.count(code) == 1


def _stopped_in_training(
    output: Path, data: Path, config: list[str], site: str, error: BaseException, keep_reply: bool = True
) -> None:
    """An error at a hospital after the first step of its round 2, once."""
    from medvlmoe.training.private_steps import PrivateSteps

    original = PrivateSteps.set_gradients
    errors = [error]

    def set_gradients(self, *arguments) -> None:
        original(self, *arguments)
        if errors and len(ledger(output, site)) == 1 and _is_pending(output, site):
            raise errors.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateSteps, "set_gradients", set_gradients)
        federate(output, data, {}, *config, keep_reply=keep_reply)


def _is_pending(output: Path, site: str) -> bool:
    *_, last = read_json_lines(output / "hospitals" / site / "privacy.jsonl")
    return last["state"] == "pending"


@pytest.mark.long
@pytest.mark.parametrize(("keep_reply", "charged"), [(True, [1]), (False, [1, 1])])
def test_a_round_below_quorum_is_asked_for_again(
    tmp_path: Path, phantom_root: Path, keep_reply: bool, charged: list[int]
) -> None:
    """The hospital that had answered sends the same noised model, or a second one that costs as much as the first."""
    with pytest.raises(QuorumError):
        federate(
            tmp_path, phantom_root, {"retinamnist": SitePolicy(min_patients=10_000)}, "federation.retries=1",
            "federation.quorum=2", keep_reply=keep_reply,
        )  # fmt: skip
    assert [line["round"] for line in ledger(tmp_path, "chestxray14")] == charged


@pytest.mark.long
def test_a_damaged_record_of_spent_privacy_stops_everything(tmp_path: Path, phantom_root: Path) -> None:
    file = tmp_path / "hospitals" / "chestxray14" / "privacy.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"run": "old"}\n')
    with pytest.raises(QuorumError, match="chestxray14: error code 103"):
        federate(tmp_path, phantom_root, {}, "federation.retries=0")


@pytest.mark.long
def test_a_required_guarantee_withholds_metrics_whatever_the_server_asks(tmp_path: Path, phantom_root: Path) -> None:
    policy = {"retinamnist": SitePolicy(differential_privacy_required=True)}
    lines = federate(tmp_path, phantom_root, policy, "privacy.release_evaluation=true", "federation.rounds=1")
    assert "validation_auc" in lines[0]["sites"]["chestxray14"]
    assert not any("validation" in key for key in lines[0]["sites"]["retinamnist"])
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["sites"]["chestxray14"]["auc"] is not None and summary["sites"]["retinamnist"]["auc"] is None


@pytest.mark.long
def test_the_simulation_and_the_pooled_model(tmp_path: Path, phantom_root: Path) -> None:
    arguments = [*COMMON, "compare=[centralized]", f"data.root={phantom_root}", f"output.root={tmp_path}",
                 "output.name=run", "federation.rounds=1"]  # fmt: skip
    assert command_line(["simulate", *arguments]) == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    assert all(site["auc"] is not None for site in summary["sites"].values())
    pooled = summary["compare"]["centralized"]["privacy"]["records"]["retinamnist"]
    assert 7.8 < pooled["epsilon"] <= 8.0
    assert "validation_auc" not in rounds(tmp_path)[0]["sites"]["retinamnist"]
    assert budget_of(simulated_site(compose(RunConfig, arguments), "retinamnist")).spent()


@pytest.mark.parametrize("override", ["model.text.encoder=null_token", "model.text.encoder=embedding_bag"])
def test_ablations_of_the_text_train_privately(tmp_path: Path, phantom_root: Path, override: str) -> None:
    lines = federate(tmp_path, phantom_root, {}, override, "federation.rounds=1")
    assert all(7.8 < lines[0]["sites"][name]["privacy/epsilon"] <= 8.0 for name in NAMES)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.moe.balance_alpha=0.01", "load-balancing"),
        ("training.precision=bfloat16", "float32"),
        ("training.patience=3", "early stopping"),
        ("federation.select=best", "select=last"),
        ("compare=[yardstick]", "batch normalisation"),
        ("mode=baseline", "contrastive stage"),
        ("compare=[baseline]", "a false claim"),
        ("privacy.balance_alpha=0.01", "set privacy.counts_noise"),
        ("privacy.balance_alpha=0.01 privacy.counts_noise=5 compare=[local]", "only a federation"),
        ("privacy.balance_alpha=0.01 privacy.counts_noise=5 strategy=fedavg", "by examples"),
        ("privacy.balance_alpha=0.01 privacy.counts_noise=5 privacy=both", "single hospitals"),
        ("training.gradient_clip=1.0", "gradient_clip"),
        ("privacy.noise_multiplier=0", "without noise"),
    ],
)
def test_what_breaks_the_guarantee_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, reason: str
) -> None:
    assert command_line(["simulate", *COMMON, f"output.root={tmp_path}", *override.split()]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
