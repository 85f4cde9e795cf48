"""The server's book of differential privacy: what was spent, by whom, and what the run folder may tell."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlmoe.files import write_text
from medvlmoe.model.groups import parameter_group
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.record_cost import RecordCost
from server.checkpoint import ServerState
from server.privacy_statement import ClientCost, privacy_statement, summarize_privacy
from strategies.client_level import ClientLevelPrivacy
from strategies.fedavg import MergeRecord

logger = logging.getLogger(__name__)


class PrivacyBook:
    """Keeps ``state.client_privacy`` and ``state.record_costs``, and writes ``privacy.md``.

    Args:
        config: what was chosen.
        client: client-level privacy of the run's strategy, ``None`` without.
        tensors: the parameters that travel (their sizes are looked at).
        folder: the run's folder.
    """

    def __init__(
        self,
        config: PrivacyConfig,
        client: ClientLevelPrivacy | None,
        tensors: Mapping[str, torch.Tensor],
        folder: Path,
    ) -> None:
        self.config = config
        self.client = client
        self._measured = False
        self._file = folder / "privacy.md"
        self._sizes: dict[str, int] = {}
        if client is not None:
            for name, tensor in tensors.items():
                block = client.blocks.block_of[parameter_group(name)]
                self._sizes[block] = self._sizes.get(block, 0) + tensor.numel()

    @property
    def hides_sites(self) -> bool:
        """Whether nothing may be kept of what a single hospital sent."""
        return self.client is not None

    @property
    def measures(self) -> bool:
        """Whether the run may know metrics of its models: client-level privacy covers none."""
        return self.client is None or self.config.release_evaluation

    def start(self, state: ServerState) -> None:
        """Begin the book of a new run."""
        if self.client is not None:
            state.client_privacy = self.client.to_dict()

    def go_on(self, state: ServerState) -> None:
        """Take up the book of an earlier process.

        Raises:
            CheckpointError: it is damaged. It is never taken for an empty one.
        """
        if self.client is not None:
            self.client.go_on_from(state.client_privacy or {})

    def affords_a_round(self, state: ServerState, rounds: int) -> bool:
        """Whether another round stays within the target; says so in the log if not."""
        if self.client is None or self.client.affords_a_round():
            return True
        logger.warning(
            "the run ends after round %d of %d: another one would exceed privacy.client.target_epsilon=%g",
            state.round, rounds, self.client.config.target_epsilon,
        )  # fmt: skip
        return False

    def charge(self, state: ServerState) -> bool:
        """Count the release of a round that is about to be written.

        Returns:
            Whether the state changed and must be on disk first: a crash then wastes budget, and never forgets it.
        """
        if self.client is None:
            return False
        self.client.charge()
        state.client_privacy = {**(state.client_privacy or {}), **self.client.accountant.to_dict()}
        return True

    def close_round(self, state: ServerState, record: MergeRecord) -> dict[str, Any]:
        """Note what the hospitals reported, and the bounds of the next round.

        Returns:
            What the round's line in ``rounds.jsonl`` says of client-level privacy: nothing without.
        """
        for site, part in record.merged.items():
            if self.measures:
                self.note_metrics(part.metrics)
            cost = RecordCost.of_numbers(part.metrics)
            if cost is not None:
                state.record_costs[site] = cost.to_numbers()
        if self.client is None:
            return {}
        used = (state.client_privacy or {}).get("bounds", {})
        state.client_privacy = self.client.to_dict()
        return {"client_privacy": {"epsilon": self.client.epsilon(), "delta": self.client.config.delta, "bounds": used}}

    def note_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Numbers that a hospital sent: the statement has to say whether any are of validation or test records."""
        self._measured |= any(name.endswith("auc") for name in metrics)

    def write_statement(self, state: ServerState, sites: Sequence[str]) -> None:
        """Write ``privacy.md``, unless the run has no differential privacy."""
        if self.config.mode != "none":
            text = privacy_statement(
                self.config,
                self._client_cost(),
                _costs(state),
                server_round=state.round,
                sites=sites,
                measured=self._measured or bool(state.auc_by_round),
            )
            write_text(self._file, text)

    def summary(self, state: ServerState) -> dict[str, Any]:
        """``{"privacy": {…}}`` for ``summary.json``; empty for a run without differential privacy."""
        if self.config.mode == "none":
            return {}
        return {"privacy": summarize_privacy(self.config, self._client_cost(), _costs(state))}

    def _client_cost(self) -> ClientCost | None:
        return None if self.client is None else ClientCost.of(self.client, self._sizes)


def _costs(state: ServerState) -> dict[str, RecordCost]:
    found = {site: RecordCost.of_numbers(numbers) for site, numbers in sorted(state.record_costs.items())}
    return {site: cost for site, cost in found.items() if cost is not None}
