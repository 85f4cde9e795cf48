"""Which experts a trained model sends which samples to, and what that goes with: the disease or the hospital."""

from medvlmoe.analysis.routing.collect import collect_routing
from medvlmoe.analysis.routing.dependence import Dependence, measure_dependence
from medvlmoe.analysis.routing.order import hungarian_order
from medvlmoe.analysis.routing.shares import label_shares, site_shares
from medvlmoe.analysis.routing.table import RoutingTable

__all__ = [
    "Dependence",
    "RoutingTable",
    "collect_routing",
    "hungarian_order",
    "label_shares",
    "measure_dependence",
    "site_shares",
]
