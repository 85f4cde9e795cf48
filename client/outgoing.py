"""From a trained model to the reply that leaves: policy, error feedback, codec."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import RecordDict

from client.config import SiteConfig
from client.departure import Departure
from client.policy.disclosure import released_rows
from client.policy.norms import allowed_shares
from client.state import RoundTensors
from medvlmoe.model.groups import parameter_group
from strategies.codecs import Codec, codec_by_name
from strategies.messages import Request, SiteUpdate, build_reply
from strategies.weights import GroupWeights

FEEDBACK_CODEC = "int8"


@dataclass(frozen=True)
class OutgoingUpdate:
    """A train reply and its size.

    Attributes:
        content: the reply.
        norms: L2 norm of the change that leaves, by group, before it is rounded.
    """

    content: RecordDict
    norms: dict[str, float]


def training_reply(site: SiteConfig, request: Request, update: SiteUpdate, departure: Departure) -> OutgoingUpdate:
    """The reply to a training request.

    With ``int8`` what rounding takes away this time is added to the site's next upload (error feedback, Seide et al.
    2014; Karimireddy et al. 2019, arXiv 1901.09847), so that nothing is lost over the rounds.

    Args:
        site: the site's own configuration.
        request: what was asked.
        update: the round's result; its tensors are the trained parameters.
        departure: gets what counts only if the reply leaves.

    Raises:
        PolicyRefusalError: the change is larger than the site allows.
    """
    codec = codec_by_name(request.reply_codec)
    residuals = RoundTensors(Path(site.folder), request.config.run, "residual")
    feedback = codec.name == FEEDBACK_CODEC
    change = _Change(
        trained=update.tensors,
        received=request.tensors,
        residual=residuals.before(request.config.round) if feedback else {},
        released=released_rows(site.policy, update.routed_samples_K, update.observed_labels_Y),
    )
    norms = _norms_by_group(change)
    shares = allowed_shares(site.policy, norms)
    sent = _Sent(change, shares, codec)
    content = build_reply(replace(update, tensors=sent), codec.name)
    if feedback:
        arrays = content.array_records["arrays"]
        left = {name: tensor - codec.decode(arrays[name], tensor.shape) for name, tensor in sent.items()}
        departure.stage(residuals.stage(request.config.round, left))
    return OutgoingUpdate(content, {group: shares[group] * norm for group, norm in norms.items()})


@dataclass(frozen=True)
class _Change(Mapping[str, torch.Tensor]):
    """The change of the parameters, each tensor computed when it is asked for."""

    trained: Mapping[str, torch.Tensor]
    received: Mapping[str, torch.Tensor]
    residual: Mapping[str, torch.Tensor]
    released: GroupWeights

    def __getitem__(self, name: str) -> torch.Tensor:
        change = self.trained[name].cpu() - self.received[name]
        if name in self.residual:
            change += self.residual[name]
        factor = self.released.of(name)
        if isinstance(factor, torch.Tensor):
            return change * factor.to(change.dtype).reshape(-1, *[1] * (change.ndim - 1))
        return change * factor

    def __iter__(self) -> Iterator[str]:
        return iter(self.trained)

    def __len__(self) -> int:
        return len(self.trained)

    def whole(self, name: str) -> bool:
        """Whether all of a tensor may leave."""
        return bool((torch.as_tensor(self.released.of(name)) == 1).all())


@dataclass(frozen=True)
class _Sent(Mapping[str, torch.Tensor]):
    """What the codec is given: the trained parameters if it is exact, their change if it rounds."""

    change: _Change
    shares: Mapping[str, float]
    codec: Codec

    def __getitem__(self, name: str) -> torch.Tensor:
        share = self.shares[parameter_group(name)]
        if not self.codec.exact:
            return share * self.change[name]
        if share == 1 and self.change.whole(name):
            return self.change.trained[name]  # every bit of it
        return self.change.received[name] + share * self.change[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.change)

    def __len__(self) -> int:
        return len(self.change)


def _norms_by_group(change: Mapping[str, torch.Tensor]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, tensor in change.items():
        group = parameter_group(name)
        squares[group] = squares.get(group, 0.0) + float(tensor.double().square().sum())
    return {group: square**0.5 for group, square in squares.items()}
