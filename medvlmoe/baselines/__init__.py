"""The five comparison models of the paper's Table 1 (docs/baselines.md)."""

from medvlmoe.baselines.build import build_baseline
from medvlmoe.baselines.config import BASELINES, BaselineConfig

__all__ = ["BASELINES", "BaselineConfig", "build_baseline"]
