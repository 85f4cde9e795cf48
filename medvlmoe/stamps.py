"""Stamps: one word on every table, file and checkpoint of results that must not be read as what they look like.

A stamp travels with what it taints: from a site's data to its results, in a federation to the global model and the
results of every site (as a number, ``stamp/LEAKY``), into the checkpoint, and from there to its evaluations.
"""

from collections.abc import Iterable, Mapping
from typing import Any

LEAKY, SUBSET, PHANTOM = "LEAKY", "SUBSET", "PHANTOM"

MEANINGS = {
    LEAKY: "the model read text that may name the labels; its results say nothing about the images",
    SUBSET: "images of a site's table were missing, so that results are not comparable with published ones",
    PHANTOM: "synthetic data; results say nothing about medicine",
}

_PREFIX = "stamp/"


def in_order(stamps: Iterable[str]) -> list[str]:
    """Each known stamp once, in the order of :data:`MEANINGS`; words that are no stamp are dropped."""
    given = set(stamps)
    return [stamp for stamp in MEANINGS if stamp in given]


def to_numbers(stamps: Iterable[str]) -> dict[str, float]:
    """Stamps as metrics of a message."""
    return {f"{_PREFIX}{stamp}": 1.0 for stamp in in_order(stamps)}


def of_numbers(metrics: Mapping[str, Any]) -> list[str]:
    """The inverse of :func:`to_numbers`; other metrics are passed over."""
    return in_order(name.removeprefix(_PREFIX) for name, value in metrics.items() if name.startswith(_PREFIX) and value)


def lines(stamps: Iterable[str]) -> list[str]:
    """``LEAKY: what that means``, one line a stamp."""
    return [f"{stamp}: {MEANINGS[stamp]}" for stamp in in_order(stamps)]
