"""Windows of local time: ``18:00-07:00``, ``Mon-Fri 18:00-07:00``, ``Sat 00:00-24:00``."""

import re
from dataclasses import dataclass
from datetime import datetime

from medvlmoe.errors import ConfigError

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(r"(?:(\w{3})(?:-(\w{3}))?\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Hours:
    """One window. It belongs to the day on which it begins: ``Fri 18:00-07:00`` ends on Saturday at seven.

    Attributes:
        days: weekdays on which it begins, Monday is 0.
        start: minutes after midnight.
        end: the same; up to 24:00, and at or before ``start`` if the window ends on the next day.
    """

    days: frozenset[int]
    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """Read a window.

        Raises:
            ConfigError: it is not one.
        """
        match = _FORM.fullmatch(text.strip())
        names = [name.capitalize() for name in match.groups()[:2] if name] if match else []
        if match is None or any(name not in _DAYS for name in names):
            raise ConfigError(f"policy.hours: '{text}' is no window; write '18:00-07:00' or 'Mon-Fri 18:00-07:00'")
        start_hour, start_minute, end_hour, end_minute = (int(part) for part in match.groups()[2:])
        start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
        if max(start_minute, end_minute) > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
            raise ConfigError(f"policy.hours: '{text}': the day goes from 00:00 to 24:00")
        first = _DAYS.index(names[0]) if names else 0
        last = _DAYS.index(names[-1]) if names else 6
        days = frozenset((first + offset) % 7 for offset in range((last - first) % 7 + 1))
        return cls(days, start, end)

    def contains(self, moment: datetime) -> bool:
        """Whether a local time lies in the window; its end does not."""
        minute, day = moment.hour * 60 + moment.minute, moment.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)
