"""What a site keeps between rounds: tensors after its last rounds.

Those that training goes on from are kept of two rounds, so that a run which is resumed one round earlier finds them.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medvlmoe.files import TensorFile, move_file, save_tensors


def run_folder(folder: Path, run: str) -> Path:
    """Where a site keeps what belongs to one run.

    Raises:
        ValueError: the run's identity is not a plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", run):
        raise ValueError("the server's run identity is not a plain name")
    return folder / "state" / run


@dataclass(frozen=True)
class StagedTensors:
    """A state that counts only once its round's reply leaves.

    What was trained and did not leave must not shape a later round: under record-level privacy nobody has paid for it.
    """

    file: Path
    of: "RoundTensors"
    round: int

    def keep(self) -> None:
        """The reply leaves: later rounds go on from this state.

        Raises:
            CheckpointError: it cannot be renamed.
        """
        self.of.keep(self.file, self.round)

    def discard(self) -> None:
        """The reply does not leave; without effect on a state that was kept."""
        self.file.unlink(missing_ok=True)


class RoundTensors:
    """Tensors of one kind, of one run at one site, by round.

    Args:
        folder: the site's folder.
        run: identity of the run, chosen by the server.
        kind: what they are: ``optimizer`` (its moments), ``residual`` (what rounding kept from the server), ``reply``.
        kept: of how many rounds.

    Raises:
        ValueError: the run's identity is not a plain name.
    """

    def __init__(self, folder: Path, run: str, kind: str, kept: int = 2) -> None:
        self.folder = run_folder(folder, run)
        self._kind, self._kept = kind, kept

    def of(self, server_round: int) -> Mapping[str, torch.Tensor] | None:
        """The tensors after one round, each read when it is asked for; ``None`` if they are not kept."""
        return TensorFile(self._file(server_round)) if server_round in self._rounds() else None

    def before(self, server_round: int) -> Mapping[str, torch.Tensor]:
        """The tensors after this site's last round before ``server_round``, each read when it is asked for.

        None of them if the site has taken part in no round.
        """
        rounds = [number for number in self._rounds() if number < server_round]
        return TensorFile(self._file(rounds[-1])) if rounds else {}

    def stage(self, server_round: int, tensors: Mapping[str, torch.Tensor]) -> "StagedTensors":
        """Write the state after a round beside the others. No round sees it before it is kept.

        A state that an earlier process of the run has staged and neither kept nor discarded is deleted.
        """
        for left_over in self.folder.glob(f"staged-{self._kind}-*.safetensors"):
            left_over.unlink(missing_ok=True)
        staged = self.folder / f"staged-{self._kind}-{secrets.token_hex(4)}.safetensors"
        save_tensors(staged, tensors)
        return StagedTensors(staged, self, server_round)

    def keep(self, staged: Path, server_round: int) -> None:
        """Make a staged state that after a round; older ones than the round before are deleted."""
        move_file(staged, self._file(server_round))
        others = [number for number in self._rounds() if number != server_round]  # this one stays, whatever its number
        for number in others[: max(0, len(others) + 1 - self._kept)]:
            self._file(number).unlink()

    def _rounds(self) -> list[int]:
        files = self.folder.glob(f"{self._kind}-*.safetensors")
        return sorted(int(file.stem.removeprefix(f"{self._kind}-")) for file in files)

    def _file(self, server_round: int) -> Path:
        return self.folder / f"{self._kind}-{server_round:05d}.safetensors"
