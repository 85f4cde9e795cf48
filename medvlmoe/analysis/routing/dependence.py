"""Does routing go with the disease, or with the hospital? Mutual information and a permutation null.

Shape suffixes: N samples, P patients, L labels, S sites, K experts, C cells of a site and a label.

Each sample has weight 1, shared among its positive labels (or all of it in ``none of them``) and among its experts by
their routing weights. That gives one joint distribution P(label, site, expert) from which everything is computed, in
bits; the chain rule I(label; expert) + I(site; expert | label) = I(site; expert) + I(label; expert | site) holds
exactly.

The null keeps each patient's labels and site and gives the patient another patient's routing, so images of one patient
stay together: as units, patients are exchangeable and images are not. Where the two have different numbers of images,
the other's are used in turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medvlmoe.analysis.routing.order import matched_share
from medvlmoe.analysis.routing.table import RoutingTable
from medvlmoe.seeds import derive_seed

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NO_LABEL = "none of them"
Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """One statistic of the routing and what it would be by chance.

    Attributes:
        name: of the statistic.
        observed: its value: bits of information, or a share for ``diagonal``.
        null_mean: mean over the permutations: what the estimate is without any dependence.
        null_high: 95 % quantile over the permutations.
        p_value: (1 + permutations that reach the observed value) / (1 + permutations).
        ceiling: the largest value there can be.
        permutations: how many.
    """

    name: str
    observed: float
    null_mean: float
    null_high: float
    p_value: float
    ceiling: float
    permutations: int

    @property
    def excess(self) -> float:
        """The part of the possible dependence that is there, beyond chance: 0 by chance, 1 at the ceiling."""
        room = self.ceiling - self.null_mean
        return (self.observed - self.null_mean) / room if room > 1e-12 else 0.0


def measure_dependence(table: RoutingTable, *, permutations: int = 999, seed: int = 0) -> dict[str, Dependence]:
    """How much the expert tells of the label and of the site.

    * ``label``: I(label; expert), against patients permuted over all sites.
    * ``label_within_site``: I(label; expert | site), against patients permuted within their site: what is left of
      specialisation by disease when the hospital is known.
    * ``site``: I(site; expert), against patients permuted over all sites.
    * ``site_within_label``: I(site; expert | label), against permutation among patients with the same labels: what is
      left of specialisation by hospital when the disease is known.
    * ``diagonal``: mean share on the diagonal of the best matching of labels and experts (what Figure 3 of the paper
      says is above 35 %), against patients permuted over all sites.

    Args:
        table: routing of test samples.
        permutations: for each null.
        seed: the same seed gives the same p-values.
    """
    cells = _Cells.of(table)
    label_set_P = _label_sets(table)
    site_P = _by_patient(table.patient_N, table.site_N)
    everyone_P = np.zeros_like(site_P)
    observed = {name: statistic(cells, table.weight_NK) for name, statistic in _STATISTICS.items()}
    null: dict[str, list[float]] = {name: [] for name in _STATISTICS}
    for within, stratum_P, names in (
        ("all", everyone_P, ("label", "site", "diagonal")),
        ("site", site_P, ("label_within_site",)),
        ("labels", label_set_P, ("site_within_label",)),
    ):
        shuffle = PatientPermutation(table.patient_N, stratum_P)
        generator = np.random.default_rng(derive_seed(seed, "routing null", within))
        for _ in range(permutations):
            weight_NK = table.weight_NK[shuffle.draw(generator)]
            for name in names:
                null[name].append(_STATISTICS[name](cells, weight_NK))
    ceilings = _ceilings(cells.joint(table.weight_NK))
    return {
        name: Dependence(
            name=name,
            observed=observed[name],
            null_mean=float(np.mean(null[name])),
            null_high=float(np.quantile(null[name], 0.95)),
            # Equal up to rounding counts as reached: with one site or one label every permutation is the same.
            p_value=(1 + int((np.array(null[name]) >= observed[name] - 1e-12).sum())) / (1 + permutations),
            ceiling=ceilings[name],
            permutations=permutations,
        )
        for name in _STATISTICS
    }


def joint_distribution(table: RoutingTable) -> Floats:
    """P(label, site, expert), shape (L, S, K) with L = Y + 1: the last label is "none of them"; sums to 1."""
    return _Cells.of(table).joint(table.weight_NK)


def mutual_information(joint_AB: Floats) -> float:
    """I(A; B) in bits of a joint distribution; 0 for an empty one."""
    total = joint_AB.sum()
    if total <= 0:
        return 0.0
    joint_AB = joint_AB / total
    independent_AB = joint_AB.sum(axis=1, keepdims=True) * joint_AB.sum(axis=0, keepdims=True)
    there = joint_AB > 0
    return max(0.0, float((joint_AB[there] * np.log2(joint_AB[there] / independent_AB[there])).sum()))


def conditional_information(joint_ABC: Floats) -> float:
    """I(A; C | B) in bits: the mean over B of the information within it."""
    within_B = np.array([mutual_information(joint_ABC[:, place]) for place in range(joint_ABC.shape[1])])
    return float(joint_ABC.sum(axis=(0, 2)) @ within_B)


class PatientPermutation:
    """Draws permutations of patients within strata, as rows whose routing each row is given.

    Args:
        patient_N: each row's patient, numbered from 0 without gaps.
        stratum_P: patients are exchanged with patients of the same stratum only.
    """

    def __init__(self, patient_N: Whole, stratum_P: Whole) -> None:
        self._patient_N = patient_N
        self._rows_by_patient = np.argsort(patient_N, kind="stable")
        self._count_P = np.bincount(patient_N, minlength=len(stratum_P))
        self._first_P = np.cumsum(self._count_P) - self._count_P
        self._place_N = np.empty_like(patient_N)
        self._place_N[self._rows_by_patient] = np.arange(len(patient_N)) - np.repeat(self._first_P, self._count_P)
        self._by_stratum = np.argsort(stratum_P, kind="stable")
        self._stratum_P = stratum_P

    def draw(self, generator: np.random.Generator) -> Whole:
        """For each row the row whose routing it is given, shape (N,)."""
        # Sorting random keys within the strata is a random order within each.
        order = np.lexsort((generator.random(len(self._stratum_P)), self._stratum_P))
        other_P = np.empty_like(order)
        other_P[self._by_stratum] = order
        other_N = other_P[self._patient_N]
        return self._rows_by_patient[self._first_P[other_N] + self._place_N % self._count_P[other_N]]


@dataclass(frozen=True)
class _Cells:
    """The samples' weights in the cells of label and site, which no permutation changes.

    Attributes:
        weight_CN: sparse; cell (label, site) number ``label * S + site``; each column sums to 1/N.
        positive_YN: sparse; each row is the mean over the positives of a label.
    """

    weight_CN: "csr_array"
    positive_YN: "csr_array"
    sites: int

    @classmethod
    def of(cls, table: RoutingTable) -> "_Cells":
        from scipy.sparse import csr_array  # a third of a second to import

        positive_NY = table.labels_NY > 0.5
        member_NL = np.column_stack([positive_NY, ~positive_NY.any(axis=1)])
        samples, labels = np.nonzero(member_NL)
        shared_N = 1 / (len(table) * member_NL.sum(axis=1))
        sites = len(table.sites)
        weight_CN = csr_array(
            (shared_N[samples], (labels * sites + table.site_N[samples], samples)),
            shape=(member_NL.shape[1] * sites, len(table)),
        )
        counted_NY = positive_NY[:, positive_NY.any(axis=0)]
        return cls(weight_CN, csr_array((counted_NY / np.maximum(counted_NY.sum(axis=0), 1)).T), sites)

    def joint(self, weight_NK: Floats) -> Floats:
        """P(label, site, expert)."""
        joint_CK = self.weight_CN @ weight_NK
        return joint_CK.reshape(-1, self.sites, joint_CK.shape[1])

    def label_shares(self, weight_NK: Floats) -> Floats:
        """Mean weight of each expert over the positives of each label that has some."""
        return self.positive_YN @ weight_NK


_STATISTICS: dict[str, Callable[[_Cells, Floats], float]] = {
    "label": lambda cells, weight_NK: mutual_information(cells.joint(weight_NK).sum(axis=1)),
    "label_within_site": lambda cells, weight_NK: conditional_information(cells.joint(weight_NK)),
    "site": lambda cells, weight_NK: mutual_information(cells.joint(weight_NK).sum(axis=0)),
    "site_within_label": lambda cells, weight_NK: conditional_information(cells.joint(weight_NK).swapaxes(0, 1)),
    "diagonal": lambda cells, weight_NK: _diagonal(cells.label_shares(weight_NK)),
}


def _diagonal(share_YK: Floats) -> float:
    return matched_share(share_YK) if len(share_YK) else 0.0


def _ceilings(joint_LSK: Floats) -> dict[str, float]:
    """I(A; B) is at most the smaller of the two entropies, given what is conditioned on."""
    expert_K, label_L, site_S = joint_LSK.sum(axis=(0, 1)), joint_LSK.sum(axis=(1, 2)), joint_LSK.sum(axis=(0, 2))
    label_site_LS = joint_LSK.sum(axis=2)
    within_site = _entropy(label_site_LS) - _entropy(site_S), _entropy(joint_LSK.sum(axis=0)) - _entropy(site_S)
    within_label = _entropy(label_site_LS) - _entropy(label_L), _entropy(joint_LSK.sum(axis=1)) - _entropy(label_L)
    return {
        "label": min(_entropy(label_L), _entropy(expert_K)),
        "label_within_site": min(within_site),
        "site": min(_entropy(site_S), _entropy(expert_K)),
        "site_within_label": min(within_label),
        "diagonal": 1.0,
    }


def _entropy(probability: Floats) -> float:
    there = probability[probability > 0]
    return float(-(there * np.log2(there)).sum())


def _by_patient(patient_N: Whole, value_N: Whole) -> Whole:
    """Each patient's value, that of the patient's last row."""
    value_P = np.zeros(int(patient_N.max()) + 1, dtype=np.int64)
    value_P[patient_N] = value_N
    return value_P


def _label_sets(table: RoutingTable) -> Whole:
    """A number for each patient's set of positive labels, all images together."""
    any_PY = np.zeros((int(table.patient_N.max()) + 1, len(table.labels)), dtype=bool)
    np.logical_or.at(any_PY, table.patient_N, table.labels_NY > 0.5)
    return np.unique(any_PY, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
