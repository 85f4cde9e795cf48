"""FedAvg with a streaming merge and full validation of replies, as an ordinary Flower strategy."""

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from medvlmoe.model.groups import parameter_group
from strategies.client_level import ClientLevelPrivacy
from strategies.codecs import codec_by_name
from strategies.error_codes import is_refusal, words_of
from strategies.merge import Merge, StreamingMerge, in_pieces
from strategies.messages import InvalidMessageError, SiteUpdate, decode_arrays, encode_arrays, read_reply
from strategies.weights import GroupWeights, weights_by_examples

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Contribution:
    """What one merged site brought to a round.

    Attributes:
        examples: its training examples.
        weights: its weights by parameter group.
        metrics: numbers about its training.
        update_norms: L2 norm of (its parameters - global parameters) by group.
    """

    examples: float
    weights: GroupWeights
    metrics: dict[str, float | list[float]]
    update_norms: dict[str, float]


@dataclass(kw_only=True)
class MergeRecord:
    """What happened to the replies of one round.

    Attributes:
        merged: contributions by site name, in the order of the merge.
        rejected: reason by site name, for replies that break the message contract.
        failed: reason by site name, for sites that answered with an error.
        refused: the same for sites whose own policy forbade the round.
    """

    merged: dict[str, Contribution] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class FedAvg(Strategy):
    """Weighted mean of the sites' parameters (McMahan et al. 2017), every group weighted by training examples.

    Differs from ``flwr.serverapp.strategy.FedAvg`` in that replies are folded in one at a time, in the order given
    (any iterable will do, a generator keeps memory flat); that a reply which breaks the message contract is rejected
    by its site's name while the round goes on; and that a round without a valid reply returns ``None``.

    Args:
        expert_count: experts of the model (length of the routed counts).
        label_count: rows of the head.
        codec: number format on the wire.
        upload_codec: number format of the replies; ``None``: the same.
        quorum: valid replies that a merge needs; below it ``aggregate_train`` returns no parameters.
        privacy: client-level differential privacy; ``None``: none. Its ``charge`` is to be called before a merge
            leaves memory, by whoever keeps its state.

    Attributes:
        site_names: site name by Flower node id; without an entry the id itself is the name.
        site_of_request: site name by the id of the request that was sent to it.
        record: what happened to the replies of the last ``aggregate_train``.
        new_store: makes the empty mapping that a merge keeps its tensors in; from the start a plain one, in memory.
    """

    def __init__(
        self,
        *,
        expert_count: int,
        label_count: int,
        codec: str = "float32",
        upload_codec: str | None = None,
        quorum: int = 1,
        privacy: ClientLevelPrivacy | None = None,
    ) -> None:
        self.expert_count = expert_count
        self.label_count = label_count
        self.codec = codec_by_name(codec).name
        self.upload_codec = codec_by_name(upload_codec or codec).name
        self.quorum = quorum
        self.site_names: dict[int, str] = {}
        self.site_of_request: dict[str, str] = {}
        self.record = MergeRecord()
        self.new_store: Callable[[], MutableMapping[str, torch.Tensor]] = dict
        self.privacy = privacy
        self._base: Mapping[str, torch.Tensor] = {}

    def weigh(self, update: SiteUpdate) -> GroupWeights:
        """The weights of one update. This is what a strategy chooses."""
        return weights_by_examples(update.examples, self.expert_count, self.label_count)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One train request to every connected site, in the order of their names.

        ``arrays`` are the global parameters in float32; ``config`` is the config record of a request.
        """
        self.start_round(decode_arrays(arrays, "float32"))
        return self._requests("train", self._base, config, grid)

    def start_round(self, base: Mapping[str, torch.Tensor]) -> None:
        """Remember the parameters that the round starts from: replies are checked against them and merged into them.

        They may lie on disk (:class:`medvlmoe.files.TensorFile`): one tensor at a time is looked at.
        """
        self._base = base

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge the replies in the order given. ``(None, None)`` if fewer than ``quorum`` are valid."""
        merged = self.merge_replies(server_round, replies)
        if merged is None:
            return None, None
        metrics = MetricRecord({"sites": len(self.record.merged)})
        if self.privacy is not None:
            return encode_arrays(merged, "float32"), metrics  # a mean loss would tell of the sites without noise
        parts = [part for part in self.record.merged.values() if isinstance(part.metrics.get("train_loss"), float)]
        if parts:
            examples_S = np.array([part.examples for part in parts])
            losses_S = np.array([part.metrics["train_loss"] for part in parts])
            metrics["train_loss"] = float(examples_S @ losses_S / examples_S.sum())
        return encode_arrays(merged, "float32"), metrics

    def merge_replies(self, server_round: int, replies: Iterable[Message]) -> Mapping[str, torch.Tensor] | None:
        """As :meth:`aggregate_train`, with plain tensors; ``None`` below quorum."""
        self.record = MergeRecord()
        store = self.new_store()
        private = self.privacy.merge(self._base, store) if self.privacy is not None else None
        merge: Merge = private or StreamingMerge(self._base, store)
        for reply in replies:
            site = self._site_of(reply)
            if reply.has_error():
                code = reply.error.code
                if is_refusal(code):
                    self.record.refused[site] = f"{words_of(code)} (code {code})"
                else:
                    self.record.failed[site] = f"error code {code}"
                continue
            try:
                self._fold(merge, site, reply.content, server_round)
            except InvalidMessageError as fault:
                self.record.rejected[site] = str(fault)
                logger.warning("round %d: reply of site %s rejected: %s", server_round, site, fault)
            del reply
        if len(self.record.merged) < self.quorum:
            return None
        merged = merge.result()
        if self.privacy is not None and private is not None:
            self.privacy.adapt(private)
        return merged

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One evaluate request to every connected site."""
        return self._requests("evaluate", decode_arrays(arrays, "float32"), config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean over the sites of each metric that is a number. ``None`` without a valid reply."""
        values: dict[str, list[float]] = {}
        for reply in replies:
            if reply.has_error() or not isinstance(reply.content.get("metrics"), MetricRecord):
                continue
            for name, value in reply.content["metrics"].items():
                if name != "round" and isinstance(value, int | float):
                    values.setdefault(name, []).append(float(value))
        return MetricRecord({name: sum(v) / len(v) for name, v in values.items()}) if values else None

    def summary(self) -> None:
        """Log the strategy's settings."""
        logger.info(
            "%s: codec %s, replies in %s, quorum %d", type(self).__name__, self.codec, self.upload_codec, self.quorum
        )

    def _requests(
        self, kind: str, tensors: Mapping[str, torch.Tensor], config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        content = RecordDict({"arrays": encode_arrays(tensors, self.codec), "config": config})
        nodes = sorted(grid.get_node_ids(), key=lambda node: (self.site_names.get(node, ""), node))
        return [Message(content, dst_node_id=node, message_type=kind) for node in nodes]

    def _site_of(self, reply: Message) -> str:
        # The sender of an error that Flower made (a dead node) is the SuperLink: only the request tells the site.
        by_request = self.site_of_request.get(reply.metadata.reply_to_message_id)
        return by_request or self.site_names.get(reply.metadata.src_node_id, str(reply.metadata.src_node_id))

    def _fold(self, merge: Merge, site: str, content: RecordDict, server_round: int) -> None:
        update = read_reply(
            content,
            base=self._base,
            codec=self.upload_codec,
            server_round=server_round,
            expert_count=self.expert_count,
            label_count=self.label_count,
        )
        weights = self.weigh(update)
        norms = norms_by_group(update.tensors, self._base, parameter_group)
        merge.add(update.tensors, weights.of)
        self.record.merged[site] = Contribution(
            examples=update.examples, weights=weights, metrics=update.metrics, update_norms=norms
        )


def norms_by_group(
    update: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], group_of: Callable[[str], str]
) -> dict[str, float]:
    """L2 norm of ``update - base`` over each parameter group."""
    squares: dict[str, float] = {}
    for name, tensor in update.items():
        group = group_of(name)
        # a piece at a time: what is in float64 is never much
        pieces = zip(in_pieces(tensor), in_pieces(base[name]), strict=True)
        squares[group] = squares.get(group, 0.0) + sum(
            float((new - old).double().square().sum()) for new, old in pieces
        )
    return {group: square**0.5 for group, square in squares.items()}
