"""The Hungarian order."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlmoe.analysis.routing.order import hungarian_order, matched_share


def shares(seed: int, groups: int, experts: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(experts), size=groups)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.integers(1, 6), experts=st.integers(1, 5))
def test_the_matching_is_the_best_of_all(seed, groups, experts):
    share = shares(seed, groups, experts)
    if groups <= experts:
        sums = (sum(share[g, k] for g, k in enumerate(ks)) for ks in itertools.permutations(range(experts), groups))
    else:
        sums = (sum(share[g, k] for k, g in enumerate(gs)) for gs in itertools.permutations(range(groups), experts))
    assert np.isclose(matched_share(share) * min(groups, experts), max(sums))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.integers(1, 8), experts=st.integers(1, 8))
def test_rows_and_columns_are_all_there_and_what_is_shown_does_not_depend_on_their_first_order(seed, groups, experts):
    share = shares(seed, groups, experts)
    rows, columns = hungarian_order(share)
    assert sorted(rows) == list(range(groups)) and sorted(columns) == list(range(experts))
    generator = np.random.default_rng(seed)
    shuffled = share[generator.permutation(groups)][:, generator.permutation(experts)]
    rows_again, columns_again = hungarian_order(shuffled)
    np.testing.assert_array_equal(share[rows][:, columns], shuffled[rows_again][:, columns_again])


def test_a_hidden_diagonal_is_found():
    generator = np.random.default_rng(0)
    hidden = np.eye(5)[generator.permutation(5)] * np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])
    rows, columns = hungarian_order(hidden)
    assert np.diag(hidden[rows][:, columns]).tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]


def test_an_unmatched_row_follows_the_expert_that_it_uses_most():
    share = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    rows, columns = hungarian_order(share)
    assert (rows, columns) == ([0, 2, 1, 3], [0, 1])
