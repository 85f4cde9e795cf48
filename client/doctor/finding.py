"""One line of the doctor."""

from collections.abc import Iterator
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        level: ``ok``, ``warn`` (a round works, but look at it) or ``fail`` (no round will work).
        subject: what was looked at, in a word or two.
        text: what was found.
        mend: what to do about it; empty if all is well.
    """

    level: str
    subject: str
    text: str
    mend: str = ""


Findings = Iterator[Finding]


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(OK, subject, text)


def warn(subject: str, text: str, mend: str) -> Finding:
    """A round works, but look at it."""
    return Finding(WARN, subject, text, mend)


def fail(subject: str, text: str, mend: str) -> Finding:
    """No round will work."""
    return Finding(FAIL, subject, text, mend)
