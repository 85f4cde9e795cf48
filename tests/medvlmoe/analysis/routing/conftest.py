"""Routing tables with a known truth."""

from collections.abc import Callable

import numpy as np
import pytest

from medvlmoe.analysis.routing import RoutingTable
from medvlmoe.analysis.routing.table import number_patients


def build_table(
    expert_of: Callable[[np.random.Generator, int, int], int | list[int]],
    *,
    patients: int = 120,
    images: int = 3,
    sites: int = 2,
    labels: int = 4,
    experts: int = 4,
    own_labels: bool = False,
    seed: int = 0,
) -> RoutingTable:
    """Every patient has one label and up to ``images`` images, all routed as ``expert_of(generator, label, site)``.

    ``own_labels`` gives each site labels that no other site has.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        site = patient % sites
        label = int(generator.integers(labels))
        if own_labels:
            label = label // sites * sites + site
        expert = expert_of(generator, label, site)
        for _ in range(int(generator.integers(1, images + 1))):
            rows.append((site, f"p{patient}", label, expert))
    weight_NK = np.zeros((len(rows), experts))
    labels_NY = np.zeros((len(rows), labels), dtype=np.float32)
    for row, (_, _, label, expert) in enumerate(rows):
        labels_NY[row, label] = 1
        chosen = np.atleast_1d(expert)
        weight_NK[row, chosen] = 1 / len(chosen)
    site_N = np.array([row[0] for row in rows], dtype=np.int64)
    return RoutingTable(
        weight_NK=weight_NK,
        gate_N2=np.full((len(rows), 2), 0.5),
        labels_NY=labels_NY,
        site_N=site_N,
        patient_N=number_patients(site_N.tolist(), [row[1] for row in rows]),
        labels=tuple(f"label {place}" for place in range(labels)),
        sites=tuple(f"site {place}" for place in range(sites)),
        top_k=1,
    )


@pytest.fixture
def make_table() -> Callable[..., RoutingTable]:
    return build_table
