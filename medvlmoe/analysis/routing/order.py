"""An order of rows and columns that shows which expert goes with which label. Shape suffixes: G groups, K experts."""

import numpy as np
import numpy.typing as npt


def best_matching(share_GK: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Groups and experts, matched one to one with the largest sum of shares (Hungarian method, scipy)."""
    from scipy.optimize import linear_sum_assignment  # a second to import

    return linear_sum_assignment(share_GK, maximize=True)


def matched_share(share_GK: npt.NDArray[np.float64]) -> float:
    """Mean share over the best one-to-one matching of groups and experts; what a diagonal would show."""
    groups, experts = best_matching(share_GK)
    return float(share_GK[groups, experts].mean())


def hungarian_order(share_GK: npt.NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Rows and columns in an order that brings large shares to the diagonal.

    Groups and experts are matched one to one with the largest sum of shares (Hungarian method, scipy). The matched
    pairs stand in the order of their shares; each unmatched group follows the pair whose expert it uses most, each
    unmatched expert comes last. The order finds a diagonal in noise too: what it is worth, the permutation null says.

    Returns:
        Positions of the groups and of the experts in ``share_GK``, in the order to show them.
    """
    groups, experts = best_matching(share_GK)
    pairs = sorted(zip(groups.tolist(), experts.tolist(), strict=True), key=lambda pair: (-share_GK[pair], pair))
    others = sorted(set(range(share_GK.shape[1])).difference(experts.tolist()), key=lambda k: -share_GK[:, k].max())
    columns = [expert for _, expert in pairs] + others
    rows = []
    unmatched = sorted(set(range(len(share_GK))).difference(groups.tolist()))
    strongest_G = share_GK.argmax(axis=1)
    for expert in columns:
        rows += [group for group, own in pairs if own == expert]
        followers = [group for group in unmatched if strongest_G[group] == expert]
        rows += sorted(followers, key=lambda group: -share_GK[group, expert])
    return rows, columns


def column_order(share_GK: npt.NDArray[np.float64], rows: list[int]) -> list[int]:
    """Experts in the order of the groups that they are matched with, for rows that stand in a given order.

    Experts without a group come last, by the position of the row that uses them most.
    """
    groups, experts = best_matching(share_GK)
    place = {group: position for position, group in enumerate(rows)}
    own = dict(zip(experts.tolist(), groups.tolist(), strict=True))
    strongest_K = share_GK.argmax(axis=0).tolist()
    return sorted(
        range(share_GK.shape[1]),
        key=lambda expert: (expert not in own, place[own.get(expert, strongest_K[expert])], expert),
    )
