"""Age, sex and view of each record, for results by subgroup. They never leave the site. N records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvlmoe.data.text import age_words, sex_words, view_words

DIMENSIONS = ("age", "sex", "view")
UNKNOWN = "unknown"
_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79))
_OLDEST_BAND = "80 and older"


@dataclass(frozen=True, kw_only=True)
class Demographics:
    """What a site's tables tell of its records, in the words of :mod:`medvlmoe.data.text`; ``unknown`` where nothing.

    Attributes:
        age: N age bands: ``0-17``, ``18-39``, ``40-59``, ``60-79``, ``80 and older``.
        sex: N of ``female`` and ``male``.
        view: N views, such as ``PA``.
    """

    age: list[str]
    sex: list[str]
    view: list[str]

    @classmethod
    def of(cls, *, ages: Sequence[str], sexes: Sequence[str], views: Sequence[str]) -> "Demographics":
        """From the columns as they stand in a table."""
        return cls(
            age=[age_band(age) for age in ages],
            sex=[sex_words(sex) or UNKNOWN for sex in sexes],
            view=[view_words(view) or UNKNOWN for view in views],
        )

    @classmethod
    def unknown(cls, count: int) -> "Demographics":
        """Records of which nothing is told."""
        return cls(age=[UNKNOWN] * count, sex=[UNKNOWN] * count, view=[UNKNOWN] * count)

    def __len__(self) -> int:
        return len(self.age)

    def take(self, rows: npt.NDArray[np.int64]) -> "Demographics":
        """The records at these positions."""
        return Demographics(**{name: [getattr(self, name)[row] for row in rows.tolist()] for name in DIMENSIONS})

    @staticmethod
    def concatenate(parts: Sequence["Demographics"]) -> "Demographics":
        """The records of several sites, one after the other."""
        return Demographics(**{name: [v for part in parts for v in getattr(part, name)] for name in DIMENSIONS})

    def to_dict(self) -> dict[str, list[str]]:
        """Plain JSON values."""
        return {name: list(getattr(self, name)) for name in DIMENSIONS}


def age_band(age: str) -> str:
    """The band of an age as it stands in a table (``57``, ``057Y``); ``unknown`` if it is no plausible age."""
    words = age_words(age)
    if not words:
        return UNKNOWN
    years = int(words.partition("-")[0])
    return next((f"{low}-{high}" for low, high in _BANDS if low <= years <= high), _OLDEST_BAND)
