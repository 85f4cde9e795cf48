"""A site's account of spent privacy: ``privacy.jsonl`` in its folder, by data and not by run.

A private round has two lines there. Before its training it is written as *pending*; right before its reply is handed
over it is written as *released*, and charged for good. A pending round counts as spent while its process lives. If that
process ends without a release, nothing it computed has left, and the round is as if it had not been.

Whether a process lives is told by the operating system: it holds a lock (``flock``) on a file of the attempt, which is
gone with the process however that ended. So the site's folder must lie where locks work; where they do not, a pending
round stays counted.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from client.config import SiteConfig
from medvlmoe.errors import CheckpointError
from medvlmoe.files import append_json_line, read_json_lines
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.units import IMAGE

logger = logging.getLogger(__name__)

PENDING, RELEASED = "pending", "released"


class Release(NamedTuple):
    """What one reply has released: to be found in the account and in its receipt alike.

    Attributes:
        run: the server's name of the run.
        round: the round.
        charged: unit and mechanisms, as JSON; empty in receipts from before they held them.
    """

    run: str
    round: int
    charged: str


class PrivacyBudget:
    """What this site's records have cost so far, over all runs.

    The file belongs to the site's folder, not to a run: another run on the same data goes on from it. What is released
    twice is written twice.

    Args:
        file: the account.

    Raises:
        CheckpointError: the file is damaged. It is never taken for an empty one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def spent(self, but_of: str | None = None) -> list[Mechanism]:
        """Everything that was released or is about to be, without that of one run."""
        return [mechanism for line in self._counted() if line.run != but_of for mechanism in line.released]

    def unit(self) -> str | None:
        """What is hidden by the releases so far, ``image`` or ``patient``; ``None`` if there are none."""
        return next((line.unit for line in self._counted()), None)

    def releases(self) -> Counter[Release]:
        """How often each result was released."""
        return Counter(
            Release(line.run, line.round, charged(line.released, line.unit))
            for line in self._lines()
            if line.state == RELEASED
        )

    def released_before(self, run: str, server_round: int) -> list[Mechanism]:
        """What a run has released in earlier rounds, without exact repetitions of a round's release."""
        distinct = {
            (line.round, charged(line.released, line.unit)): line.released
            for line in self._lines()
            if line.state == RELEASED and line.run == run and line.round < server_round
        }
        return [mechanism for released in distinct.values() for mechanism in released]

    def releases_again(self, run: str, server_round: int) -> int:
        """Releases of a run beyond one a round, if this round is released now."""
        rounds = [line.round for line in self._lines() if line.state == RELEASED and line.run == run] + [server_round]
        return len(rounds) - len(set(rounds))

    def begin_anew(self) -> Path | None:
        """Put the account aside; where it lies now, ``None`` if there was none."""
        with self.alone():
            if not self.file.exists():
                return None
            aside = self.file.with_name(f"privacy-until-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.jsonl")
            self.file.rename(aside)
            return aside

    def begin(self, run: str, server_round: int, released: Sequence[Mechanism], unit: str = IMAGE) -> "Attempt":
        """Write a round as pending. Call it, and look at what is spent before, inside :meth:`alone`.

        Raises:
            CheckpointError: it cannot be written or locked; then the round must not begin.
        """
        if not self.file.exists():
            logger.warning("%s: no record of spent privacy there; counting starts at 0", self.file)
        self._clear_dead_attempts()
        attempt = Attempt(self, secrets.token_hex(8), run, server_round, tuple(released), unit)
        try:
            self._append(PENDING, attempt)
        except CheckpointError:
            attempt.end()
            raise
        return attempt

    def charge(self, attempt: "Attempt") -> None:
        """Write an attempt as released.

        Raises:
            CheckpointError: it cannot be written; then nothing may leave.
        """
        with self.alone():
            self._append(RELEASED, attempt)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Of all processes of the site only this one looks at the account and writes in it."""
        with contextlib.ExitStack() as stack:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(self.file.with_name(f"{self.file.name}.lock"), "wb"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise CheckpointError(f"cannot lock {self.file}: {error}") from error
            yield

    def lock_file(self, attempt: str) -> Path:
        """The file that an attempt's process holds a lock on."""
        return self.file.with_name(f"{self.file.name}.{attempt}")

    def _append(self, state: str, attempt: "Attempt") -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        of = {"state": state, "attempt": attempt.name, "run": attempt.run, "round": attempt.round, "at": when}
        append_json_line(
            self.file, {**of, "unit": attempt.unit, **Accountant("rdp", attempt.released).to_dict()}, key=None
        )  # fmt: skip

    def _lines(self) -> list["_Line"]:
        try:
            return [_Line.of(line) for line in read_json_lines(self.file)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{self.file} is damaged ({error}); restore it from a backup") from error

    def _counted(self) -> list["_Line"]:
        """The released lines, and the pending ones that may still be released."""
        lines = self._lines()
        done = {line.attempt for line in lines if line.state == RELEASED}
        return [
            line
            for line in lines
            if line.state == RELEASED or (line.attempt not in done and _is_held(self.lock_file(line.attempt)))
        ]

    def _clear_dead_attempts(self) -> None:
        for line in self._lines():
            if line.state == PENDING and not _is_held(file := self.lock_file(line.attempt)):
                file.unlink(missing_ok=True)


class Attempt:
    """A round that is pending: its process holds a lock until it is released or given up.

    Attributes:
        name: of the attempt, unique.
        run: the server's name of the run.
        round: the round.
        released: what its reply will have released.
        unit: what is hidden.
    """

    def __init__(
        self, budget: PrivacyBudget, name: str, run: str, server_round: int, released: tuple[Mechanism, ...], unit: str
    ) -> None:
        self.name, self.run, self.round, self.released, self.unit = name, run, server_round, released, unit
        self._budget = budget
        self._lock: IO[bytes] | None = None
        try:
            self._lock = open(budget.lock_file(name), "wb")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.end()
            raise CheckpointError(f"cannot lock {budget.lock_file(name)}: {error}") from error

    def release(self) -> None:
        """Charge it for good, once; the reply may be handed over after this and not before.

        Raises:
            CheckpointError: that cannot be written; then nothing may leave.
        """
        if self._lock is not None:
            self._budget.charge(self)
            self.end()

    def end(self) -> None:
        """Give up what was not released: it has cost nothing."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._budget.lock_file(self.name).unlink()
            # Closing would not do: a process that was forked meanwhile (a data loader's worker) has the file open too.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
            self._lock = None


@dataclass(frozen=True, kw_only=True)
class _Line:
    run: str
    round: int
    unit: str
    state: str
    attempt: str
    released: tuple[Mechanism, ...]

    @classmethod
    def of(cls, line: dict[str, Any]) -> "_Line":
        """A line of the file; those from before there were two a round are of what was charged."""
        state, attempt = line.get("state", RELEASED), line.get("attempt", "")
        if state not in (PENDING, RELEASED) or not isinstance(attempt, str) or os.sep in attempt:
            raise ValueError(f"state {state!r}, attempt {attempt!r}")
        return cls(
            run=line["run"], round=line["round"], unit=line.get("unit", IMAGE), state=state, attempt=attempt,
            released=Accountant.from_dict(line).spent,
        )  # fmt: skip


def charged(released: Sequence[Mechanism], unit: str) -> str:
    """Unit and mechanisms of a release in one text, the same for the account and the receipt."""
    return json.dumps({"unit": unit, "spent": Accountant("rdp", released).to_dict()["spent"]}, sort_keys=True)


def budget_of(site: SiteConfig) -> PrivacyBudget:
    """The record of what the site's data have cost."""
    return PrivacyBudget(Path(site.folder) / "privacy.jsonl")


def _is_held(file: Path) -> bool:
    """Whether a process holds a lock on the file; if that cannot be told, it does."""
    try:
        with open(file, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look do not see each other
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
