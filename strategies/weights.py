"""Weights of one site's update, by parameter group.

A merge is one formula for all groups, ``theta_g <- sum_s w[s, g] theta[s, g] / sum_s w[s, g]``; a strategy is a choice
of ``w``. Router row k belongs to expert k and head row c to label c, so their weights are one number a row.
"""

from dataclasses import dataclass

import torch

from medvlmoe.model.groups import parameter_group


@dataclass(frozen=True)
class GroupWeights:
    """Non-negative weights of one site.

    Attributes:
        shared: weight of every group that is not listed below.
        experts_K: weight of expert k and of router row k.
        labels_Y: weight of head row c.
    """

    shared: float
    experts_K: torch.Tensor
    labels_Y: torch.Tensor

    def of(self, parameter_name: str) -> float | torch.Tensor:
        """The weight of a parameter: one number, or a float64 tensor with one number a row."""
        group = parameter_group(parameter_name)
        if group == "router":
            return self.experts_K
        if group == "head":
            return self.labels_Y
        if group.startswith("expert."):
            return float(self.experts_K[int(group.removeprefix("expert."))])
        return self.shared


def weights_by_examples(examples: float, expert_count: int, label_count: int) -> GroupWeights:
    """FedAvg (McMahan et al. 2017): every group by the site's number of training examples."""
    return GroupWeights(
        examples,
        torch.full((expert_count,), examples, dtype=torch.float64),
        torch.full((label_count,), examples, dtype=torch.float64),
    )


def weights_by_use(examples: float, routed_samples_K: torch.Tensor, observed_labels_Y: torch.Tensor) -> GroupWeights:
    """Per-expert FedAvg: experts by the samples routed to them, head rows by the labels observed, the rest by examples.

    An expert that no sample of a site reached has weight zero there, so the site cannot dilute it
    (holder-only averaging, FedMoE, arXiv 2408.11304).
    """
    return GroupWeights(examples, routed_samples_K.to(torch.float64), observed_labels_Y.to(torch.float64))
