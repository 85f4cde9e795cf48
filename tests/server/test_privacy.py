"""Client-level privacy in the round loop: what is written, when it is paid for, and what a resume knows."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import load_tensors, read_json_lines
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.record_cost import RecordCost
from server.checkpoint import ServerCheckpoints
from server.privacy_statement import privacy_statement, summarize_privacy
from tests.server.test_rounds import NAMES, error, federate, final, rounds

PRIVATE = ("privacy=client", "privacy.client.target_epsilon=null", "privacy.client.noise_multiplier=2.0",
           "federation.rounds=2")  # fmt: skip


def state_of(output: Path) -> dict:
    return json.loads((output / "run" / "checkpoints" / "state.json").read_text())


def epsilon_of(*noise_and_steps: tuple[float, int]) -> float:
    spent = [Mechanism(noise_multiplier=noise, steps=steps) for noise, steps in noise_and_steps]
    return Accountant("rdp", spent).epsilon(1e-5)


def test_the_run_says_what_it_cost_and_keeps_nothing_of_a_single_hospital(tmp_path: Path) -> None:
    summary = federate(tmp_path, lambda *_: None, *PRIVATE)
    client = summary["privacy"]["client"]
    assert client["epsilon"] == epsilon_of((2.0, 2))
    assert (client["delta"], client["hospitals"], client["releases"]) == (1e-5, 3, 2)
    assert summary["sites"] == {} and summary["mean_auc"] is None, "metrics are not covered, so there are none"
    for line in rounds(tmp_path):
        assert line["sites"] == {name: {"outcome": "merged"} for name in sorted(NAMES)}
        assert "expert_samples" not in line and line["validation_auc_before"] is None
        assert line["client_privacy"]["bounds"] == {"rest": 1.0}
    assert not (tmp_path / "run" / "ledger.jsonl").exists()
    assert state_of(tmp_path)["auc_by_round"] == {}
    statement = (tmp_path / "run" / "privacy.md").read_text()
    assert f"| {-(-client['epsilon'] * 100 // 1) / 100:.2f} | 1e-05 | 2 | 2 | 3 |" in statement
    assert "every single hospital's contribution" in statement and "Metrics: the run has none" in statement


def test_every_expert_is_noised_also_those_that_nobody_used(tmp_path: Path) -> None:
    federate(tmp_path, lambda *_: None, *PRIVATE, "federation.rounds=1")
    start, end = load_tensors(tmp_path / "run/checkpoints/round-00001.safetensors")[0], final(tmp_path)
    assert all(torch.equal(start[name], end[name]) for name in start)
    ordinary = federate(tmp_path / "plain", lambda *_: None, "federation.rounds=1")
    assert "privacy" not in ordinary and not (tmp_path / "plain/run/privacy.md").exists()
    plain = final(tmp_path / "plain")
    deviation = 2.0 / 3
    for name in (n for n in plain if n.startswith(("moe.experts.3", "moe.experts.0")) and plain[n].numel() > 500):
        assert (end[name] - plain[name]).std().item() == pytest.approx(deviation, rel=0.2)


def test_metrics_may_be_released_and_then_the_statement_says_so(tmp_path: Path) -> None:
    summary = federate(tmp_path, lambda *_: None, *PRIVATE, "privacy.release_evaluation=true")
    assert summary["mean_auc"] == pytest.approx(0.6)
    assert rounds(tmp_path)[1]["validation_auc_before"] == pytest.approx(0.52)
    assert all(line["sites"]["north"] == {"outcome": "merged"} for line in rounds(tmp_path))
    assert "**Metrics were released**" in (tmp_path / "run" / "privacy.md").read_text()


def test_groups_may_have_bounds_of_their_own(tmp_path: Path) -> None:
    bounds = "+privacy.client.max_group_norms={vision: 0.5, expert*: 0.1}"
    summary = federate(tmp_path, lambda *_: None, *PRIVATE, "federation.rounds=1", bounds)
    experts = {f"expert.{k}": 0.1 for k in range(4)}
    assert summary["privacy"]["client"]["bounds"] == {"vision": 0.5, **experts, "rest": 1.0}


def test_a_run_stops_before_the_round_that_would_exceed_its_target(tmp_path: Path) -> None:
    target = ("privacy=client", "privacy.client.target_epsilon=20")
    federate(tmp_path, lambda *_: None, *target, "federation.rounds=2")
    assert 19 < state_epsilon(tmp_path) <= 20
    summary = federate(tmp_path, lambda *_: None, *target, "federation.rounds=5", "resume=true")
    assert summary["rounds"] == 2 and state_epsilon(tmp_path) <= 20


def state_epsilon(output: Path) -> float:
    return Accountant.from_dict(state_of(output)["client_privacy"]).epsilon(1e-5)


def test_a_round_is_paid_for_before_its_model_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = ServerCheckpoints.save

    def killed(self: ServerCheckpoints, state, tensors, metadata) -> None:  # type: ignore[no-untyped-def]
        if state.round == 2:
            raise KeyboardInterrupt
        save(self, state, tensors, metadata)

    monkeypatch.setattr(ServerCheckpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        federate(tmp_path, lambda *_: None, *PRIVATE)
    assert state_epsilon(tmp_path) == epsilon_of((2.0, 2)), "the lost release is paid for"
    monkeypatch.setattr(ServerCheckpoints, "save", save)
    summary = federate(tmp_path, lambda *_: None, *PRIVATE, "resume=true")
    assert summary["rounds"] == 2
    assert summary["privacy"]["client"]["epsilon"] == epsilon_of((2.0, 3)), "and so is the round that was repeated"
    assert summary["privacy"]["client"]["releases"] == 3


def test_a_resumed_run_costs_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    federate(tmp_path / "parts", lambda *_: None, *PRIVATE, "federation.rounds=1")
    parts = federate(tmp_path / "parts", lambda *_: None, *PRIVATE, "federation.rounds=3", "resume=true")
    whole = federate(tmp_path / "whole", lambda *_: None, *PRIVATE, "federation.rounds=3")
    assert parts["privacy"]["client"] == whole["privacy"]["client"]


def test_a_round_below_quorum_costs_nothing(tmp_path: Path) -> None:
    failures = []

    def once(site: str, server_round: int, message):  # type: ignore[no-untyped-def]
        if site == "west" and not failures:
            failures.append(site)
            return error(message)
        return None

    summary = federate(tmp_path, once, *PRIVATE)
    assert failures and summary["privacy"]["client"]["epsilon"] == epsilon_of((2.0, 2))


def test_a_lost_account_is_no_empty_one(tmp_path: Path) -> None:
    federate(tmp_path, lambda *_: None, *PRIVATE)
    path = tmp_path / "run" / "checkpoints" / "state.json"
    path.write_text(json.dumps({**state_of(tmp_path), "client_privacy": None}))
    with pytest.raises(CheckpointError, match="damaged"):
        federate(tmp_path, lambda *_: None, *PRIVATE, "federation.rounds=3", "resume=true")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("federation.select=best", "federation.select=best: that looks at validation records"),
        ("training.patience=3", "training.patience=3: that looks at validation records"),
        ("federation.quorum=1", "one hospital has nobody to hide among"),
        ("mode=centralized", "needs mode=federated"),
        ("+privacy.client.max_group_norms.visoin=1.0", "no parameter group of that name travels"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing_behind(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        federate(tmp_path, lambda *_: None, *PRIVATE, override)
    assert not (tmp_path / "run").exists()


COST = RecordCost(
    epsilon=2.501, delta=1e-5, noise_multiplier=1.1, sampling_rate=0.05, steps=40, max_grad_norm=1.0, counts_noise=8.0,
    epsilon_before=0.5, epsilon_cap=6.0,
)  # fmt: skip


def test_the_statement_names_every_hospital_what_it_spent_and_who_has_not_reported() -> None:
    config = PrivacyConfig(mode="record", target_epsilon=3.0)
    text = privacy_statement(config, None, {"north": COST}, server_round=4, sites=["north", "south"], measured=False)
    assert "| north | image | 2.51 | 1e-05 | 0.50 | 6 | 1.1 | 0.05 | 40 | 1 | noise multiplier 8 |" in text
    assert "| south | not reported |" in text
    assert "every single image of a hospital" in text and "single hospital's" not in text
    assert "That a hospital took part" in text and "Metrics were released" not in text
    assert "Metrics were released" in privacy_statement(
        config, None, {"north": COST}, server_round=4, sites=["north"], measured=True
    )
    entry = summarize_privacy(config, None, {"north": COST})
    assert entry["unit"] == "image" and entry["hospitals"]["north"]["epsilon"] == 2.501


def test_the_statement_tells_where_the_unit_is_not_the_patient() -> None:
    config = PrivacyConfig(mode="record", target_epsilon=3.0, unit="patient")
    costs = {"north": dataclasses.replace(COST, by_patient=1.0), "south": COST}
    text = privacy_statement(config, None, costs, server_round=4, sites=["north", "south"], measured=False)
    assert "| north | patient | 2.51 |" in text and "| south | image | 2.51 |" in text
    assert "every single patient of a hospital" in text and "Of each drawn patient one image is taken" in text
    assert "**The data of south tell no patients: there the unit is the image.** A patient with k images" in text
    units = {site: entry["unit"] for site, entry in summarize_privacy(config, None, costs)["hospitals"].items()}
    assert units == {"north": "patient", "south": "image"}
    anew = {"north": dataclasses.replace(COST, earlier_accounts=2.0)}
    text = privacy_statement(config, None, anew, server_round=4, sites=["north"], measured=False)
    assert "begun anew, and how often: north (2).**" in text
    again = {"north": dataclasses.replace(COST, releases_again=3.0)}
    text = privacy_statement(config, None, again, server_round=4, sites=["north"], measured=False)
    assert "released more than once, and how often: north (3).**" in text
    whole = privacy_statement(config, None, {"north": costs["north"]}, server_round=4, sites=["north"], measured=False)
    assert "tell no patients" not in whole and "k images" not in whole and "anew" not in whole
    assert "more than once" not in whole


def test_noise_that_follows_from_a_seed_is_said_to_protect_nothing() -> None:
    config = PrivacyConfig(mode="record", target_epsilon=3.0, repeatable_noise=True)
    text = privacy_statement(config, None, {"north": COST}, server_round=4, sites=["north"], measured=False)
    assert "- **Everything** (`privacy.repeatable_noise=true`)" in text


def test_reported_costs_reach_the_state_and_the_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import server.privacy_book as book

    close = book.PrivacyBook.close_round

    def with_costs(self, state, record):  # type: ignore[no-untyped-def]
        record.merged["south"].metrics.update(COST.to_numbers())
        return close(self, state, record)

    monkeypatch.setattr(book.PrivacyBook, "close_round", with_costs)
    both = (
        "privacy.mode=both",
        "privacy.target_epsilon=3.0",
        "model.moe.balance_alpha=0",
        "training.precision=float32",
    )
    summary = federate(tmp_path, lambda *_: None, *PRIVATE, *both)
    assert summary["privacy"]["hospitals"]["south"]["epsilon"] == 2.501
    assert next(iter(read_json_lines(tmp_path / "run" / "rounds.jsonl")))["sites"]["south"] == {"outcome": "merged"}
    assert "| south | image | 2.51 |" in (tmp_path / "run" / "privacy.md").read_text()
