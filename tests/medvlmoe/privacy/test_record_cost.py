import math

from medvlmoe.privacy.record_cost import RecordCost

COST = RecordCost(
    epsilon=2.5, delta=1e-5, noise_multiplier=1.1, sampling_rate=0.05, steps=40, max_grad_norm=1.0, epsilon_before=0.5
)


def test_costs_survive_the_way_to_the_server_among_other_metrics() -> None:
    assert RecordCost.of_numbers({**COST.to_numbers(), "train_loss": 1.0, "epsilon": 9.0}) == COST


def test_every_number_that_travels_is_finite() -> None:
    assert all(math.isfinite(value) for value in COST.to_numbers().values())
    assert "privacy/epsilon_cap" not in COST.to_numbers()


def test_a_partial_report_is_no_report() -> None:
    numbers = COST.to_numbers()
    del numbers["privacy/delta"]
    assert RecordCost.of_numbers(numbers) is None
    assert RecordCost.of_numbers({"train_loss": 1.0}) is None
