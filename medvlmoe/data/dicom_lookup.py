"""DICOM lookup tables: modality LUT, VOI LUT and palettes (DICOM PS3.3 C.11.1, C.11.2 and C.7.6.3.1.5).

pydicom's own functions are not used for these: in pydicom 3.0 they refuse tables of 12 bits, wrap the positions of
tables with more than 256 entries of 8 bits, and refuse 8-bit tables of odd length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class LookupTable:
    """A table and the value that its first entry stands for.

    Attributes:
        first: values up to this one get the first entry, values beyond the last entry get the last.
        entries: unsigned integers.
        bits: depth of the entries.
    """

    first: int
    entries: npt.NDArray[np.int64]
    bits: int

    @classmethod
    def read(cls, descriptor: Any, data: Any, *, little_endian: bool, signed: bool) -> "LookupTable":
        """From a descriptor (number of entries, first value, bits) and its data, bytes or numbers.

        Raises:
            ValueError: the data are shorter than the descriptor says.
        """
        count, first, bits = (int(value) for value in descriptor)
        count = count % 2**16 or 2**16  # 65536 does not fit into 16 bits and is written as 0
        if signed and first >= 2**15:
            first -= 2**16
        if isinstance(data, bytes):
            wide = len(data) >= 2 * count  # 8-bit entries may fill a byte or a word each
            order = "<" if little_endian else ">"
            entries = np.frombuffer(data, dtype=f"{order}u2" if wide else "u1").astype(np.int64)
        else:
            entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 2**16
            if len(entries) < count <= 2 * len(entries):  # two 8-bit entries in each word
                entries = np.stack([entries % 256, entries // 256], axis=1).reshape(-1)
        if len(entries) < count:
            raise ValueError(f"a lookup table has {len(entries)} entries instead of {count}")
        entries = entries[:count]
        return cls(first, entries, max(bits, int(entries.max()).bit_length()))

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The entries that finite ``values`` stand for."""
        positions = np.round(np.asarray(values, dtype=np.float64)) - self.first
        return self.entries[np.clip(positions, 0, len(self.entries) - 1).astype(np.int64)]
