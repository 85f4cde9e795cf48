import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.training.schedule import learning_rate_factor, step_progress


@given(st.floats(0, 120), st.floats(1, 100), st.floats(0, 50), st.sampled_from(["cosine", "constant"]))
def test_the_factor_is_a_share(progress: float, total: float, warmup: float, schedule: str) -> None:
    assert 0.0 <= learning_rate_factor(progress, total, warmup, schedule) <= 1.0


def test_it_rises_linearly_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(epoch, 100, 10, "cosine") for epoch in range(111)]
    assert factors[:11] == pytest.approx([epoch / 10 for epoch in range(11)])
    assert all(before > after for before, after in itertools.pairwise(factors[10:101]))
    assert factors[55] == pytest.approx(0.5)
    assert factors[100:] == pytest.approx([0.0] * 11, abs=1e-12)


def test_a_constant_schedule_stays_at_its_peak() -> None:
    assert [learning_rate_factor(epoch, 10, 2, "constant") for epoch in (1, 2, 5, 10)] == [0.5, 1, 1, 1]


def test_a_run_shorter_than_the_warm_up_reaches_its_peak() -> None:
    assert learning_rate_factor(1, 2, 10, "cosine") == 1.0


@given(st.integers(1, 50), st.integers(0, 5))
def test_no_step_is_wasted_at_rate_zero(steps: int, epoch: int) -> None:
    for step in range(steps):
        assert learning_rate_factor(step_progress(epoch, step, steps), 6, 2, "cosine") > 0


@given(st.integers(1, 200))
def test_warm_up_gives_sites_of_any_size_the_same_mean_rate(steps: int) -> None:
    rates = [learning_rate_factor(step_progress(0, step, steps), 10, 2, "cosine") for step in range(steps)]
    assert sum(rates) / steps == pytest.approx(0.25)
