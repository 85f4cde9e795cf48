"""Losses of the contrastive stage, as pure functions of features."""

from medvlmoe.baselines.losses.contrastive import contrastive_loss
from medvlmoe.baselines.losses.language import mask_tokens, masked_language_loss, next_token_loss
from medvlmoe.baselines.losses.soft_targets import soft_target_loss
from medvlmoe.baselines.losses.word_regions import global_match_loss, local_match_loss, word_region_similarity

__all__ = [
    "contrastive_loss",
    "global_match_loss",
    "local_match_loss",
    "mask_tokens",
    "masked_language_loss",
    "next_token_loss",
    "soft_target_loss",
    "word_region_similarity",
]
