"""The five comparison models of the paper's Table 1 (docs/baselines.md).

``medvlmoe.baselines.build.build_baseline`` makes one; it is not imported here, since most runs need none.
"""

from medvlmoe.torchvision_operators import declare_missing_operators

declare_missing_operators()  # before any module of this package imports timm or transformers

from medvlmoe.baselines.config import BASELINES, BaselineConfig  # noqa: E402

__all__ = ["BASELINES", "BaselineConfig"]
