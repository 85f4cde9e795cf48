from datetime import datetime

import pytest

from client.policy.hours import Hours
from medvlmoe.errors import ConfigError

# 2026-11-23 is a Monday.
MOMENTS = [
    ("18:00-07:00", "2026-11-23 17:59", False),
    ("18:00-07:00", "2026-11-23 18:00", True),
    ("18:00-07:00", "2026-11-24 06:59", True),
    ("18:00-07:00", "2026-11-24 07:00", False),
    ("09:00-17:00", "2026-11-24 09:00", True),
    ("09:00-17:00", "2026-11-24 17:00", False),
    ("Fri 18:00-07:00", "2026-11-28 06:59", True),
    ("Fri 18:00-07:00", "2026-11-27 06:59", False),
    ("Mon-Thu 18:00-07:00", "2026-11-27 06:59", True),
    ("Mon-Thu 18:00-07:00", "2026-11-27 18:30", False),
    ("Sat-Sun 00:00-24:00", "2026-11-29 23:59", True),
    ("Sat-Sun 00:00-24:00", "2026-11-30 00:00", False),
    ("Sat-Mon 10:00-11:00", "2026-11-30 10:30", True),
    ("sat-mon 10:00-11:00", "2026-12-01 10:30", False),
    ("00:00-00:00", "2026-12-01 10:30", True),
]


@pytest.mark.parametrize(("window", "moment", "inside"), MOMENTS)
def test_windows(window: str, moment: str, inside: bool) -> None:
    assert Hours.parse(window).contains(datetime.fromisoformat(moment)) is inside


@pytest.mark.parametrize("text", ["", "18-7", "18:00", "25:00-26:00", "18:60-19:00", "Foo 18:00-19:00", "24:00-01:00"])
def test_what_is_no_window_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"policy\.hours"):
        Hours.parse(text)
