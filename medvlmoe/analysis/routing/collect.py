"""A model's routing of every row of some data sets. Shape suffixes: B batch, J chosen experts, K experts, U units."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medvlmoe.analysis.routing.table import RoutingTable, number_patients
from medvlmoe.data.dataset import SiteDataset
from medvlmoe.errors import ConfigError
from medvlmoe.model.medvlmoe import MedVLMoE
from medvlmoe.model.moe import RoutingDecision
from medvlmoe.training.batches import ordered_batches


def collect_routing(
    model: MedVLMoE, datasets: Mapping[str, SiteDataset], *, batch_size: int = 64, stamps: Sequence[str] = ()
) -> RoutingTable:
    """Send every row of every site through the model and take down where it went.

    The model is in evaluation mode meanwhile: no dropout, no router noise. A row's routing does not depend on the
    other rows of its batch.

    Args:
        model: on the device that computes.
        datasets: rows by site, all with the model's labels.
        batch_size: rows at once.
        stamps: of the data and the model.

    Raises:
        ConfigError: there is no row, or the model has no experts.
    """
    device = next(model.parameters()).device
    weights, gates, labels, site_N, patient_ids = [], [], [], [], []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for number, dataset in enumerate(datasets.values()):
                for rows in ordered_batches(range(len(dataset)), batch_size):
                    batch = dataset.__getitems__(rows).to(device)
                    output = model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
                    if output.routing is None:
                        raise ConfigError("the model has no experts, so there is no routing to show")
                    gate_B2 = output.gate_B2 if output.gate_B2 is not None else torch.ones(len(batch), 2)
                    weights.append(expert_weights(output.routing, len(batch)).cpu())
                    gates.append(gate_B2.double().cpu())
                    labels.append(batch.labels_BY.cpu())
                    site_N += [number] * len(batch)
                    patient_ids += batch.patient_ids
    finally:
        model.train(was_training)
    if not weights:
        raise ConfigError("there is no row to collect the routing of")
    return RoutingTable(
        weight_NK=torch.cat(weights).numpy(),
        gate_N2=torch.cat(gates).numpy(),
        labels_NY=torch.cat(labels).numpy(),
        site_N=np.array(site_N, dtype=np.int64),
        patient_N=number_patients(site_N, patient_ids),
        labels=next(iter(datasets.values())).label_space.labels,
        sites=tuple(datasets),
        top_k=model.config.moe.top_k,
        stamps=tuple(stamps),
    )


def expert_weights(routing: RoutingDecision, samples: int) -> Tensor:
    """Each sample's weights of all K experts, float64, summing to 1; shape (B, K).

    Args:
        routing: of samples, or of the tokens of samples, whose weights are averaged.
        samples: B.
    """
    weight_UJ = routing.expert_weight_BJ.double()
    weight_UK = torch.zeros_like(routing.probabilities_BK, dtype=torch.float64)
    weight_UK.scatter_add_(1, routing.expert_index_BJ, weight_UJ / weight_UJ.sum(dim=1, keepdim=True))
    return weight_UK.unflatten(0, (samples, -1)).mean(dim=1)
