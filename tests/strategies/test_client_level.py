"""Client-level privacy over rounds: what it costs, how bounds move, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import ClientLevelConfig
from medvlmoe.privacy.mechanism import Mechanism
from strategies.client_level import ClientLevelPrivacy
from strategies.weights import GroupWeights

FULL = GroupWeights(1.0, torch.ones(1), torch.ones(1))


def privacy(site_count: int = 10, rounds: int = 5, seed: int = 0, **settings) -> ClientLevelPrivacy:  # type: ignore[no-untyped-def]
    settings = {"noise_multiplier": 2.0, **settings} if "target_epsilon" not in settings else settings
    return ClientLevelPrivacy(
        ClientLevelConfig(**settings),
        groups=["vision", "expert.0", "head"],
        site_count=site_count,
        rounds=rounds,
        random=np.random.default_rng(seed),
    )


def test_rounds_add_up() -> None:
    ours = privacy()
    for _ in range(7):
        ours.charge()
    assert ours.epsilon() == Accountant("rdp", [Mechanism(noise_multiplier=2.0, steps=7)]).epsilon(1e-5)


def test_adaptive_bounds_are_paid_for() -> None:
    fixed, adaptive = privacy(), privacy(clipping="adaptive", max_group_norms={"vision": 1.0}, quantile_noise=3.0)
    for ours in (fixed, adaptive):
        ours.charge()
    # Two blocks: one site changes two counts by a half each, sqrt(2) / 2 together.
    expected = [Mechanism(noise_multiplier=2.0), Mechanism(noise_multiplier=3.0 / (math.sqrt(2) / 2))]
    assert adaptive.epsilon() == Accountant("rdp", expected).epsilon(1e-5) > fixed.epsilon()


@pytest.mark.parametrize("clipping", ["fixed", "adaptive"])
def test_the_target_is_met_by_all_rounds_together_and_stops_what_follows(clipping: str) -> None:
    ours = privacy(target_epsilon=6.0, clipping=clipping, rounds=5, quantile_noise=4.0)
    for _ in range(5):
        assert ours.affords_a_round()
        ours.charge()
    assert 5.8 < ours.epsilon() <= 6.0
    assert not ours.affords_a_round()


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_an_adaptive_bound_converges_to_the_quantile_of_the_norms(quantile: float) -> None:
    norms = np.random.default_rng(5).lognormal(0.0, 0.8, size=200)
    ours = privacy(
        site_count=200,
        clipping="adaptive",
        target_quantile=quantile,
        max_update_norm=20.0,
        quantile_rate=0.4,
        quantile_noise=5.0,
    )
    base = {"vision.w": torch.zeros(2)}
    bounds = []
    for _ in range(60):
        merge = ours.merge(base)
        for norm in norms:
            merge.add({"vision.w": torch.tensor([norm, 0.0])}, FULL.of)
        ours.adapt(merge)
        bounds.append(ours.blocks.bounds["rest"])
    share_below = float(np.mean(norms <= np.exp(np.mean(np.log(bounds[-20:])))))
    assert share_below == pytest.approx(quantile, abs=0.05)


@pytest.mark.parametrize(("cap", "share"), [(None, 1.0), (4.0, 0.25), (0.5, 1.0)])
def test_a_weight_counts_up_to_its_cap(cap: float | None, share: float) -> None:
    merge = privacy(weight_cap=cap, max_update_norm=100.0).merge({"vision.w": torch.zeros(2)})
    merge.add({"vision.w": torch.ones(2)}, FULL.of)
    torch.testing.assert_close(merge.totals()["vision.w"], torch.full((2,), share))


def test_a_fixed_bound_stays() -> None:
    ours = privacy()
    merge = ours.merge({"vision.w": torch.zeros(2)})
    merge.add({"vision.w": torch.ones(2)}, FULL.of)
    ours.adapt(merge)
    assert ours.blocks.bounds == {"rest": 1.0}


def test_a_resumed_run_costs_what_an_uninterrupted_one_does_and_goes_on_with_its_bounds() -> None:
    whole = privacy(clipping="adaptive")
    for _ in range(4):
        whole.charge()
    first = privacy(clipping="adaptive", seed=1)
    base = {"vision.w": torch.zeros(2)}
    for _ in range(2):
        first.charge()
        first.adapt(first.merge(base))
    second = privacy(clipping="adaptive", seed=2)
    second.go_on_from(json.loads(json.dumps(first.to_dict())))
    assert second.blocks.bounds == first.blocks.bounds != {"rest": 1.0}
    for _ in range(2):
        second.charge()
    assert second.epsilon() == whole.epsilon()


def test_a_longer_plan_does_not_buy_more_rounds_after_a_resume() -> None:
    first = privacy(target_epsilon=6.0, rounds=3)
    for _ in range(3):
        first.charge()
    longer = privacy(target_epsilon=6.0, rounds=9)
    longer.go_on_from(first.to_dict())
    assert not longer.affords_a_round()


@pytest.mark.parametrize("state", [{}, {"spent": [], "accountant": "rdp"}, {"spent": None}])
def test_a_damaged_state_is_refused(state: dict) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        privacy().go_on_from(state)


def test_a_state_of_other_groups_is_refused() -> None:
    with pytest.raises(CheckpointError, match="other parameter groups"):
        privacy().go_on_from(privacy(max_group_norms={"head": 1.0}).to_dict())


def test_a_single_hospital_has_nobody_to_hide_among() -> None:
    with pytest.raises(ConfigError, match="1 hospital"):
        privacy(site_count=1)


def test_counts_that_cost_the_whole_target_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing of the target 1"):
        privacy(target_epsilon=1.0, clipping="adaptive", quantile_noise=0.1)


def test_without_a_seed_the_noise_is_another_each_time() -> None:
    config = ClientLevelConfig(noise_multiplier=1.0)
    base = {"vision.w": torch.zeros(8)}
    models = [
        ClientLevelPrivacy(config, groups=["vision"], site_count=3, rounds=1).merge(base).result() for _ in range(2)
    ]
    assert not torch.equal(models[0]["vision.w"], models[1]["vision.w"])
