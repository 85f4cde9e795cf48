"""Shares of the routing weight by label and by site. Shape suffixes: N samples, G groups, K experts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvlmoe.analysis.routing.table import RoutingTable


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the samples of each group are spread over the experts.

    Attributes:
        names: G groups.
        weight_GK: mean weight of each expert over the group's samples; rows sum to 1.
        samples_GK: share of the group's samples that each expert saw.
        count_G: samples of the group.
        patient_count_G: patients of the group.
    """

    names: tuple[str, ...]
    weight_GK: npt.NDArray[np.float64]
    samples_GK: npt.NDArray[np.float64]
    count_G: npt.NDArray[np.int64]
    patient_count_G: npt.NDArray[np.int64]


def label_shares(table: RoutingTable) -> Shares:
    """Shares among the positives of each label (reading A18); labels without a positive sample are left out."""
    positive_NY = table.labels_NY > 0.5  # NaN is not
    return _shares(table, {name: positive_NY[:, place] for place, name in enumerate(table.labels)})


def site_shares(table: RoutingTable) -> Shares:
    """Shares among the samples of each site."""
    return _shares(table, {name: table.site_N == place for place, name in enumerate(table.sites)})


def overall_share(table: RoutingTable) -> npt.NDArray[np.float64]:
    """Each expert's share of the weight over all samples, shape (K,)."""
    return table.weight_NK.mean(axis=0)


def _shares(table: RoutingTable, members: dict[str, npt.NDArray[np.bool_]]) -> Shares:
    members = {name: rows_N for name, rows_N in members.items() if rows_N.any()}
    return Shares(
        names=tuple(members),
        weight_GK=np.array([table.weight_NK[rows_N].mean(axis=0) for rows_N in members.values()]),
        samples_GK=np.array([(table.weight_NK[rows_N] > 0).mean(axis=0) for rows_N in members.values()]),
        count_G=np.array([rows_N.sum() for rows_N in members.values()], dtype=np.int64),
        patient_count_G=np.array(
            [len(np.unique(table.patient_N[rows_N])) for rows_N in members.values()], dtype=np.int64
        ),
    )
