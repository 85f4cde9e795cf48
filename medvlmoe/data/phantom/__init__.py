"""Synthetic stand-ins for the five benchmarks, written in their official layouts.

No phantom shows a person: images are drawn from formulas. They exist so that the whole pipeline runs anywhere
without a download, and so that tests know the truth behind every image.
"""

from medvlmoe.data.phantom.config import PhantomConfig
from medvlmoe.data.phantom.generator import generate_phantoms

__all__ = ["PhantomConfig", "generate_phantoms"]
