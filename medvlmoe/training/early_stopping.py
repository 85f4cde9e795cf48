"""Stop when the validation AUC has not risen for a while."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStopping:
    """Remembers the best epoch (A11: stop after ``patience`` epochs without a new best, restore the best).

    Attributes:
        patience: epochs without a new best before stopping; 0 never stops.
        best_epoch: epoch of the best value; ``None`` until there was a value.
        best_value: the best value.
        waited: epochs since then that had a value.
    """

    patience: int
    best_epoch: int | None = None
    best_value: float | None = None
    waited: int = 0

    def update(self, epoch: int, value: float | None) -> bool:
        """Take in an epoch's value; whether it is a new best.

        ``None`` (an AUC that is undefined) is neither better nor worse: there is nothing to judge by.
        """
        if value is None:
            return False
        if self.best_value is None or value > self.best_value:
            self.best_epoch, self.best_value, self.waited = epoch, value, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self.patience <= self.waited

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
