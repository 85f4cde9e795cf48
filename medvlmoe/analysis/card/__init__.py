"""The model card of a trained model (Mitchell et al. 2019, arXiv 1810.03993), written from the files of its run."""

from typing import TYPE_CHECKING

from medvlmoe.lazy_package import lazy_attributes

if TYPE_CHECKING:
    from medvlmoe.analysis.card.write import write_cards

__all__ = [
    "write_cards",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "write_cards": "write",
    },
)
