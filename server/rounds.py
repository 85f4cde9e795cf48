"""The round loop: send, train at the sites, merge in the fixed order of the sites, record, save, and resume."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from medvlmoe import stamps
from medvlmoe.errors import CheckpointError, QuorumError
from medvlmoe.files import LayeredTensors
from medvlmoe.model.groups import parameter_group
from medvlmoe.run_folder import RunFolder
from medvlmoe.tensor_scratch import TensorScratch
from server.checkpoint import ServerCheckpoints, ServerState
from server.global_model import GlobalModel
from server.inbox import inbox_of, is_networked
from server.ledger import ledger_lines
from server.outbox import outbox_of
from server.privacy_book import PrivacyBook
from server.replies import Deadline, Replies, failure_words
from server.roster import Roster
from server.spool import ENVELOPE_BYTES
from server.status import RunStatus
from strategies import FedAvg
from strategies.codecs import codec_by_name
from strategies.messages import InvalidMessageError, Metric, RoundConfig, build_request, read_evaluation_reply
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)

_LATER_SECONDS = 3600.0  # a message outlives its round's deadline, so that a late reply is known as one
_TOLD_SECONDS = 60.0  # a SuperNode asks for requests every few seconds
_SLOWEST_LINE = 125_000.0  # bytes a second


class RoundLoop:
    """Runs a federation's rounds.

    Args:
        grid: the federation.
        roster: the hospitals.
        model: the global model before the first round.
        strategy: merge rule.
        config: the run's configuration.
        folder: the run's folder. A state found in it is gone on with.
    """

    def __init__(
        self,
        grid: Grid,
        roster: Roster,
        model: GlobalModel,
        strategy: FedAvg,
        config: RunConfig,
        folder: RunFolder,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.config = config
        self.folder = folder
        self.checkpoints = ServerCheckpoints(folder.checkpoints)
        self.roster = roster
        self.status = RunStatus(folder.path / "status.json", config.federation.rounds)
        self.shapes = {name: tensor.shape for name, tensor in model.exchanged.items()}  # now: later they are on disk
        most_bytes = round(1.1 * sum(self._bytes_by_group("float32").values())) + ENVELOPE_BYTES
        incoming = folder.path / "incoming"
        self.outbox = outbox_of(grid)
        self.replies = Replies(self.outbox, inbox_of(grid, incoming, most_bytes), self.status)
        if is_networked(grid):
            strategy.new_store = lambda: TensorScratch(incoming)
        self.not_sent: dict[str, str] = {}  # why, by site, the last request did not go to it
        self.privacy = PrivacyBook(config.privacy, strategy.privacy, model.exchanged, folder.path)
        self.state = self._restore()
        self.status.phase("starting", server_round=self.state.round)

    def run(self) -> None:
        """Run the rounds that are left, then choose the model that the run ends with."""
        while self._wants_a_round():
            self._run_round(self.state.round + 1)
        if self.privacy.measures and self.state.round not in self.state.auc_by_round:
            self._note_auc(self.state.round, self._validate())
            self.checkpoints.save_state(self.state)
        if self.model_file() != self.checkpoints.file_of(self.state.round):
            logger.info("the run ends with the model of round %s, the best on validation", self.state.best_round())
            self.model.read_from(self.model_file())

    def model_file(self) -> Path:
        """The checkpoint of the model that the run ends with."""
        best = self.state.best_round() if self.config.federation.select == "best" else None
        return self.checkpoints.file_of(self.state.round if best is None else best)

    def evaluate(self, splits: tuple[str, ...], *, intervals: bool = True) -> dict[str, dict[str, Metric]]:
        """Evaluate the global model at every site: metrics by site name, keys ``split/metric``."""
        found: dict[str, dict[str, Metric]] = {}
        self.roster.refresh(self.model.label_space)
        request = self._request(self.state.round, splits=splits, intervals=intervals)
        for site, reply in self._send("evaluate", request):
            if reply.has_error():
                logger.warning("site %s did not evaluate: %s", site, failure_words(reply.error.code))
                continue
            try:
                found[site] = read_evaluation_reply(reply.content, self.state.round)
            except InvalidMessageError as fault:
                self.status.site(site, f"rejected: {fault}")
                logger.warning("evaluation of site %s rejected: %s", site, fault)
        for site, why in self._without_reply().items():
            logger.warning("site %s did not evaluate: %s", site, why)
        return found

    def _run_round(self, server_round: int) -> None:
        for attempt in range(self.config.federation.retries + 1):
            self.roster.refresh(self.model.label_space)
            quorum = self.config.federation.quorum or len(self.roster.nodes)
            self.strategy.quorum = quorum
            self.status.phase("waiting for hospitals", server_round=server_round, quorum=quorum)
            self.roster.await_quorum(quorum, self.model.label_space)
            self.status.phase("training")
            started = time.monotonic()
            self.strategy.start_round(self.model.exchanged)
            merged = self.strategy.merge_replies(server_round, self._replies_to(self._request(server_round)))
            record = self.strategy.record
            for site, reason in record.rejected.items():
                self.status.site(site, f"rejected: {reason}")
            if merged is not None:
                self._finish_round(server_round, merged, time.monotonic() - started)
                return
            logger.warning(
                "round %d, attempt %d: %d of %d sites, model unchanged", server_round, attempt + 1,
                len(record.merged), quorum,
            )  # fmt: skip
        absent = {**record.failed, **record.rejected, **record.refused, **self._without_reply()}
        listed = "; ".join(f"{site}: {reason}" for site, reason in sorted(absent.items()))
        raise QuorumError(f"round {server_round} did not reach its quorum of {quorum} sites ({listed})")

    def _finish_round(self, server_round: int, merged: Mapping[str, torch.Tensor], seconds: float) -> None:
        record, state = self.strategy.record, self.state
        if self.privacy.charge(state):
            self.checkpoints.save_state(state)
        before = {
            site: float(part.metrics["validation_auc"])  # type: ignore[arg-type]
            for site, part in record.merged.items()
            if "validation_auc" in part.metrics
        }
        self._note_auc(server_round - 1, before)
        experts = range(self.strategy.expert_count)
        hidden = self.privacy.hides_sites  # then every expert has moved, by its noise if by nothing else
        moved = [
            hidden or any(float(part.weights.experts_K[k]) > 0 for part in record.merged.values()) for k in experts
        ]
        state.expert_moved_in = [
            server_round if now else earlier for now, earlier in zip(moved, state.expert_moved_in, strict=True)
        ]
        if self.config.privacy.balance_alpha > 0:
            state.expert_loads = _shares([part.weights.experts_K for part in record.merged.values()])
        state.stamps = stamps.in_order(
            [*state.stamps, *(stamp for part in record.merged.values() for stamp in stamps.of_numbers(part.metrics))]
        )
        state.round = server_round
        line: dict[str, Any] = {
            "round": server_round,
            "seconds": round(seconds, 3),
            "validation_auc_before": self.state.auc_by_round.get(server_round - 1),
            "sites": self._site_lines(),
            "bytes_by_group": self._bytes_by_group(self.strategy.codec),
            "reply_bytes_by_group": self._bytes_by_group(self.strategy.upload_codec),
            **self.privacy.close_round(state, record),
        }
        if not hidden:
            line["expert_samples"] = [
                sum(float(part.weights.experts_K[k]) for part in record.merged.values()) for k in experts
            ]
        ledger = [] if hidden else ledger_lines(server_round, record, state.expert_moved_in)
        self.folder.record_round(line, ledger)
        self._save(LayeredTensors(self.model.fixed, merged))
        self.privacy.write_statement(state, list(self.roster.nodes))
        for site in record.merged:
            self.status.merged(site, server_round)
        logger.info(
            "round %d of %d: %d sites merged in %.1f s, validation AUC before it %s",
            server_round,
            self.config.federation.rounds,
            len(record.merged),
            seconds,
            _rounded(line["validation_auc_before"]),
        )

    def _save(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Save the model after ``state.round``, and from now on read it from there."""
        self.checkpoints.save(
            self.state, tensors, self.model.metadata(round=self.state.round, stamps=self.state.stamps)
        )
        self.model.read_from(self.checkpoints.file_of(self.state.round))

    def _site_lines(self) -> dict[str, dict[str, Any]]:
        record = self.strategy.record
        lines: dict[str, dict[str, Any]] = {site: {"outcome": "merged"} for site in record.merged}
        if not self.privacy.hides_sites:
            for site, part in record.merged.items():
                lines[site] = {
                    **part.metrics,  # first: a site's own numbers never take the place of the server's
                    "outcome": "merged",
                    "examples": part.examples,
                    "routed_samples": part.weights.experts_K.tolist(),
                    "update_norms": part.update_norms,
                }
        lines |= {site: {"outcome": "rejected", "reason": reason} for site, reason in record.rejected.items()}
        lines |= {site: {"outcome": "failed", "reason": reason} for site, reason in record.failed.items()}
        lines |= {site: {"outcome": "refused by policy", "reason": why} for site, why in record.refused.items()}
        lines |= {site: {"outcome": "no reply", "reason": why} for site, why in self._without_reply().items()}
        return lines

    def _without_reply(self) -> dict[str, str]:
        """Why, by site, there is no reply to the last request."""
        return {**self.not_sent, **self.replies.missing}

    def _replies_to(self, request: Any) -> Iterator[Message]:
        for _, reply in self._send("train", request):
            self.strategy.site_of_request = self.replies.site_of_request
            yield reply

    def _send(self, kind: str, request: Any) -> Iterator[tuple[str, Message]]:
        federation = self.config.federation
        deadline = Deadline(
            seconds=federation.round_seconds,
            enough=federation.quorum,
            grace_seconds=federation.grace_seconds,
            unreachable_seconds=federation.unreachable_seconds,
            delivery_seconds=math.inf if federation.delivery_seconds is None else federation.delivery_seconds,
            fetching_seconds=self._fetching_seconds(),
        )
        online = self.roster.online()
        self.not_sent = dict.fromkeys(self.roster.absent(), "missing")
        self.not_sent |= {site: "unreachable" for site in self.roster.nodes if site not in online}
        for site, why in self.not_sent.items():
            self.status.site(site, why)
        # Flower's own lifetime of a message is 12 hours, and a reply must come within that of its request.
        lifetime = federation.round_seconds + _LATER_SECONDS
        messages = {
            site: Message(request, dst_node_id=node, message_type=kind, ttl=lifetime) for site, node in online.items()
        }
        return self.replies.collect(messages, deadline)

    def _request(self, server_round: int, splits: tuple[str, ...] = (), intervals: bool = False) -> Any:
        federation = self.config.federation
        round_config = RoundConfig(
            run=self.folder.identity.replace("/", "_"),
            round=server_round,
            rounds=federation.rounds,
            local_epochs=federation.local_epochs,
            keep_optimizer_state=federation.keep_optimizer_state,
            seed=self.config.seed,
            model=self.model.config_for_sites(),
            label_space=self.model.label_space,
            training=self.config.training,
            privacy=self.config.privacy,
            frozen_sums=self.model.frozen_sums,
            expert_loads=self.state.expert_loads,
            splits=splits,
            intervals=intervals,
        )
        return build_request(
            round_config,
            self.model.exchanged,
            self.strategy.codec,
            self.strategy.upload_codec,
            encode=self.outbox.encode,
        )

    def _validate(self) -> dict[str, float]:
        self.status.phase("validating")
        reports = self.evaluate(("validation",), intervals=False)
        return {site: float(m["validation/auc"]) for site, m in reports.items() if "validation/auc" in m}  # type: ignore[arg-type]

    def _note_auc(self, server_round: int, auc_by_site: dict[str, float]) -> None:
        if auc_by_site and self.privacy.measures:
            self.state.auc_by_round[server_round] = sum(auc_by_site.values()) / len(auc_by_site)

    def _wants_a_round(self) -> bool:
        planned = self.config.federation.rounds
        return (
            self.state.round < planned
            and not self._out_of_patience()
            and self.privacy.affords_a_round(self.state, planned)
        )

    def _out_of_patience(self) -> bool:
        best, patience = self.state.best_round(), self.config.training.patience
        known = max(self.state.auc_by_round, default=0)
        return patience > 0 and best is not None and known - best >= patience

    def _fetching_seconds(self) -> float:
        return _TOLD_SECONDS + sum(self._bytes_by_group(self.strategy.codec).values()) / _SLOWEST_LINE

    def _bytes_by_group(self, codec: str) -> dict[str, int]:
        """Of one site and one direction: the reply has the same tensors as the request."""
        byte_count = codec_by_name(codec).byte_count
        counts: dict[str, int] = {}
        for name, shape in self.shapes.items():
            group = parameter_group(name)
            counts[group] = counts.get(group, 0) + byte_count(shape)
        return counts

    def _restore(self) -> ServerState:
        state = self.checkpoints.load_state()
        if state is None:
            self.folder.forget_rounds_after(0)
            state = ServerState(expert_moved_in=[0] * self.strategy.expert_count)
            self.privacy.start(state)
            self.state = state
            self._save(self.model.state())
            return state
        checkpoint = self.checkpoints.file_of(state.round)
        if not self.model.fits(checkpoint):
            raise CheckpointError(f"{self.folder.path}: the sites' labels or the model changed since the run started")
        self.privacy.go_on(state)
        self.model.read_from(checkpoint)
        self.folder.forget_rounds_after(state.round)
        logger.info("resuming after round %d", state.round)
        return state


def _shares(counts: list[torch.Tensor]) -> list[float]:
    """What each expert got of everything that was routed; none if nothing was."""
    total_K = torch.stack(counts).sum(0)
    return (total_K / total_K.sum()).tolist() if bool(total_K.sum() > 0) else []


def _rounded(value: Any) -> str:
    return "unknown" if value is None else f"{value:.4f}"
