"""Mutual information against plain loops, and the null against what is known of a table."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlmoe.analysis.routing import RoutingTable, measure_dependence
from medvlmoe.analysis.routing.dependence import (
    PatientPermutation,
    conditional_information,
    joint_distribution,
    mutual_information,
)


def any_expert(generator, label, site):
    return int(generator.integers(4))


def expert_of_label(generator, label, site):
    return label


def expert_of_site(generator, label, site):
    return site


def multilabel_table(seed: int = 0, rows: int = 40) -> RoutingTable:
    generator = np.random.default_rng(seed)
    labels_NY = (generator.random((rows, 3)) < 0.4).astype(np.float32)
    labels_NY[generator.random((rows, 3)) < 0.1] = np.nan
    weight_NK = generator.random((rows, 5)) * (generator.random((rows, 5)) < 0.5) + 1e-3
    return RoutingTable(
        weight_NK=weight_NK / weight_NK.sum(axis=1, keepdims=True),
        gate_N2=generator.random((rows, 2)),
        labels_NY=labels_NY,
        site_N=generator.integers(0, 2, rows),
        patient_N=np.unique(generator.integers(0, 15, rows), return_inverse=True)[1].astype(np.int64),
        labels=("a", "b", "c"),
        sites=("north", "south"),
        top_k=2,
    )


def test_joint_distribution_equals_a_plain_loop():
    table = multilabel_table()
    expected = np.zeros((4, 2, 5))
    for row in range(len(table)):
        positive = [place for place in range(3) if table.labels_NY[row, place] == 1] or [3]
        for label in positive:
            for expert in range(5):
                share = table.weight_NK[row, expert] / len(positive) / len(table)
                expected[label, table.site_N[row], expert] += share
    np.testing.assert_allclose(joint_distribution(table), expected, atol=1e-12)


def test_information_equals_a_plain_loop():
    joint = joint_distribution(multilabel_table())
    pair = joint.sum(axis=1)
    expected = sum(
        pair[a, b] * math.log2(pair[a, b] / (pair[a].sum() * pair[:, b].sum()))
        for a in range(pair.shape[0])
        for b in range(pair.shape[1])
        if pair[a, b] > 0
    )
    assert mutual_information(pair) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_chain_rule_holds(seed):
    joint = joint_distribution(multilabel_table(seed))
    label, site = mutual_information(joint.sum(axis=1)), mutual_information(joint.sum(axis=0))
    label_given_site = conditional_information(joint)
    site_given_label = conditional_information(joint.swapaxes(0, 1))
    assert label + site_given_label == pytest.approx(site + label_given_site, abs=1e-10)


def test_random_routing_is_told_from_none(make_table):
    found = measure_dependence(make_table(any_expert), permutations=199)
    for one in found.values():
        assert one.p_value > 0.05, one
        assert abs(one.excess) < 0.05, one
    assert found["label"].observed < found["label"].null_high


def test_p_values_are_uniform_without_dependence(make_table):
    # patients with up to six images that all go the same way: images taken for units would give far too small p-values
    tables = [make_table(any_expert, patients=40, images=6, seed=seed) for seed in range(60)]
    p_values = {name: [] for name in ("label", "label_within_site", "site")}
    for table in tables:
        found = measure_dependence(table, permutations=59)
        for name, values in p_values.items():
            values.append(found[name].p_value)
    for name, values in p_values.items():
        assert 0.35 < np.mean(values) < 0.65, name
        assert np.mean(np.array(values) <= 0.1) < 0.25, name


def test_perfect_specialisation_by_disease_reaches_the_maximum(make_table):
    table = make_table(expert_of_label)
    found = measure_dependence(table, permutations=99)
    assert found["label"].observed == pytest.approx(found["label"].ceiling, abs=1e-9)
    assert found["label"].excess == pytest.approx(1)
    assert found["diagonal"].observed == pytest.approx(1)
    assert found["label"].p_value == found["label_within_site"].p_value == 0.01
    assert found["site"].p_value > 0.05  # both sites have all labels
    assert found["site_within_label"].observed == pytest.approx(0, abs=1e-12)
    assert found["site_within_label"].p_value == 1


def test_specialisation_by_hospital_is_not_taken_for_disease(make_table):
    # Each site has labels of its own, so that the label tells the expert; given the site, it tells nothing.
    found = measure_dependence(make_table(expert_of_site, own_labels=True), permutations=99)
    assert found["site"].observed == pytest.approx(1, abs=1e-3)  # one bit: which of two sites
    assert found["label"].p_value == 0.01
    assert found["label_within_site"].observed == pytest.approx(0, abs=1e-12)
    assert found["label_within_site"].p_value == 1


def test_specialisation_by_hospital_with_shared_labels(make_table):
    found = measure_dependence(make_table(expert_of_site, patients=240), permutations=99)
    assert found["site_within_label"].p_value == 0.01
    assert found["site_within_label"].excess > 0.9
    assert found["label"].p_value > 0.05


def test_one_site_has_no_dependence_on_the_site(make_table):
    found = measure_dependence(make_table(expert_of_label, sites=1), permutations=19)
    assert (found["site"].observed, found["site"].p_value, found["site"].excess) == (0, 1, 0)


def test_the_same_seed_gives_the_same_numbers(make_table):
    table = make_table(any_expert)
    again = measure_dependence(table, permutations=19, seed=3)
    assert measure_dependence(table, permutations=19, seed=3) == again
    assert measure_dependence(table, permutations=19, seed=4) != again


def test_the_order_of_samples_changes_no_observed_value(make_table):
    table = make_table(expert_of_label)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    for name, one in measure_dependence(shuffled, permutations=9).items():
        assert one.observed == pytest.approx(measure_dependence(table, permutations=9)[name].observed)


def test_names_of_labels_and_experts_change_nothing(make_table):
    table = make_table(any_expert)
    renamed = replace(table, weight_NK=table.weight_NK[:, ::-1], labels_NY=table.labels_NY[:, ::-1])
    for name, one in measure_dependence(renamed, permutations=9).items():
        assert one.observed == pytest.approx(measure_dependence(table, permutations=9)[name].observed)


def test_permutations_move_whole_patients_within_their_stratum():
    patient_N = np.array([0, 1, 0, 2, 2, 3, 2, 4])
    stratum_P = np.array([0, 0, 1, 1, 1])
    shuffle = PatientPermutation(patient_N, stratum_P)
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        source_N = shuffle.draw(generator)
        given_P = {}
        for row, source in enumerate(source_N):
            given_P.setdefault(int(patient_N[row]), set()).add(int(patient_N[source]))
        assert all(len(given) == 1 for given in given_P.values())  # one patient's rows come from one patient
        order = [given.pop() for _, given in sorted(given_P.items())]
        assert sorted(order) == [0, 1, 2, 3, 4]
        assert all(stratum_P[patient] == stratum_P[other] for patient, other in enumerate(order))
        seen.add(tuple(order))
        for patient in range(5):  # with as many images, each is used once
            rows = np.flatnonzero(patient_N == patient)
            if order[patient] == patient:
                assert source_N[rows].tolist() == rows.tolist()
    assert len(seen) == 2 * 6
