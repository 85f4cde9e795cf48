"""The model card of a trained model (Mitchell et al. 2019, arXiv 1810.03993), written from the files of its run."""

from medvlmoe.analysis.card.write import write_cards

__all__ = ["write_cards"]
