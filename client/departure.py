"""The way out of one training reply: what counts only if it leaves, and what its round costs if it does not."""

from types import TracebackType

from client.account import Attempt, charged
from client.state import StagedTensors
from medvlmoe.errors import CheckpointError

# The disk: what is written there has its size from the model alone. Memory is not among them: how many tokens of a
# record go to one expert decides how much a step takes, and a server could ask for a model at the edge of it.
_TELLS_NOTHING = (CheckpointError,)


class Departure:
    """Context of a round from its training to its reply.

    Every tensor that the round leaves at the site for later rounds (optimizer, rounding) is staged here, and a private
    round is pending. :meth:`leave` charges the round and keeps the tensors; the reply is handed over after it.

    Without :meth:`leave` the tensors are discarded. A private round then costs nothing if its process is killed or
    interrupted, or if the disk failed. Any other error is charged as if the reply had left: its code does leave, and
    the records may have their part in it (a gradient that is not finite, an update larger than the policy allows, too
    little memory). The code is one number without noise, which the guarantee does not cover; charged, it can be asked
    for as often as the budget lasts and no more.
    """

    def __init__(self) -> None:
        self._attempt: Attempt | None = None
        self._staged: list[StagedTensors] = []

    def pend(self, attempt: Attempt) -> None:
        """The round is a private one."""
        self._attempt = attempt

    def stage(self, staged: StagedTensors) -> None:
        """Tensors for later rounds."""
        self._staged.append(staged)

    def leave(self) -> None:
        """Call it right before the reply is handed over.

        Raises:
            CheckpointError: something cannot be written; then nothing may leave.
        """
        if self._attempt is not None:
            self._attempt.release()
        for staged in self._staged:
            staged.keep()

    @property
    def charged(self) -> str:
        """What the reply releases of the records, for its receipt; empty without record-level privacy."""
        return "" if self._attempt is None else charged(self._attempt.released, self._attempt.unit)

    def __enter__(self) -> "Departure":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for staged in self._staged:
            staged.discard()
        if self._attempt is not None:
            try:
                if isinstance(error, Exception) and not isinstance(error, _TELLS_NOTHING):
                    self._attempt.release()
            finally:
                self._attempt.end()
