"""Per-expert FedAvg: experts weighted by the samples that each site routed to them."""

from strategies.fedavg import FedAvg
from strategies.messages import SiteUpdate
from strategies.weights import GroupWeights, weights_by_use


class PerExpertFedAvg(FedAvg):
    """FedAvg in which expert k and router row k weigh a site by its routed samples, and head row c by its known labels.

    An expert that no site used keeps its bytes, and a site cannot dilute an expert it never used or a label it does
    not have. Encoders and fusion weigh by training examples. With equal use everywhere it is FedAvg.
    """

    def weigh(self, update: SiteUpdate) -> GroupWeights:
        """Weights by use; see :func:`strategies.weights.weights_by_use`."""
        return weights_by_use(update.examples, update.routed_samples_K, update.observed_labels_Y)
