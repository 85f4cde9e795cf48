"""The texts of MIMIC-CXR: view and report. Reports are read when a text is asked for, those of other splits never."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import overload

import numpy as np
import numpy.typing as npt

from medvlmoe.data.config import TEXT_OF_REPORTS
from medvlmoe.data.index import LazyTexts
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.loaders.report_store import ReportStore
from medvlmoe.data.report_text import report_reader
from medvlmoe.data.text import prompt


@dataclass(frozen=True, eq=False)
class ReportTexts(LazyTexts):
    """One text for each image; the images of a study share its report.

    Attributes:
        mode: ``context``, ``report`` or ``redacted``, see :class:`medvlmoe.data.config.DatasetConfig`.
        opening: constant first sentence.
        views: N views.
        patient_ids: N patients.
        study_ids: N studies.
        reports: where the reports are.
    """

    mode: str
    opening: str
    views: Sequence[str]
    patient_ids: Sequence[str]
    study_ids: Sequence[str]
    reports: ReportStore
    _read: dict[str, str] = field(default_factory=dict, repr=False)

    def take(self, rows: npt.NDArray[np.int64]) -> "ReportTexts":
        """See :class:`LazyTexts`."""
        return replace(
            self,
            views=[self.views[row] for row in rows.tolist()],
            patient_ids=[self.patient_ids[row] for row in rows.tolist()],
            study_ids=[self.study_ids[row] for row in rows.tolist()],
        )

    def __len__(self) -> int:
        return len(self.study_ids)

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """The text of a record, or of several."""
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        study = self.study_ids[row]
        if study not in self._read:
            self._read[study] = self._words(self.reports.read(self.patient_ids[row], study), study)
        if self.mode in TEXT_OF_REPORTS:
            return self._read[study]
        return " ".join(part for part in (prompt(self.opening, view=self.views[row]), self._read[study]) if part)

    def _words(self, report: str, study_id: str) -> str:
        return _reader(self.mode)(report, study_id)


@cache
def _reader(mode: str) -> Callable[[str, str], str]:
    return report_reader(mode, CHEXPERT)
