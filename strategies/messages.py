"""The message contract between server and sites: what each request and reply holds, and how it is checked.

Train request   ``arrays`` ArrayRecord, ``config`` ConfigRecord (one JSON text, the server's version, two codec names)
Train reply     ``arrays`` ArrayRecord, ``metrics`` MetricRecord, ``weights`` MetricRecord
Evaluate        request as for training; reply ``metrics`` only
Introduction    ``config`` ConfigRecord (the server's version); reply ``site`` ConfigRecord (one JSON text: name, label
                space, version)

``arrays`` of a reply are the trained parameters in float32, or their change in a shorter format.
Only numbers and names of labels leave a site. Nothing is unpickled.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from medvlmoe.configuration import from_mapping, to_mapping
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.training.config import TrainingConfig
from strategies.codecs import codec_by_name
from strategies.config import CODECS

Metric = float | list[float]


class InvalidMessageError(ValueError):
    """A message breaks the contract. The text names the key and the fault, and never holds data."""


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """What the server decides for one round; everything else at a site is the site's own.

    Attributes:
        run: identity of the run, the same after a resume.
        round: number of the round, from 1. In an evaluation: the round whose merged model is evaluated, 0 for none.
        rounds: rounds planned, which fixes the learning-rate schedule.
        local_epochs: epochs of this round.
        keep_optimizer_state: go on with the AdamW moments of this site's last round.
        seed: seed of the run.
        model: architecture.
        label_space: rows of the head.
        training: optimizer, schedule and batch size. Precision and workers are the site's own where it sets them.
        privacy: differential privacy of the records. The site's policy may want more, never less.
        expert_loads: share of the assignments that each expert had at the last merge, by the sites' noised counts;
            empty before the first, and where nobody asks for it.
        frozen_sums: of the parts of the model that do not travel, by parameter group; the site's must be the same.
        splits: evaluation only: which splits to evaluate.
        intervals: evaluation only: bootstrap intervals too.
    """

    run: str
    round: int
    rounds: int
    local_epochs: int
    keep_optimizer_state: bool
    seed: int
    model: MedVLMoEConfig
    label_space: LabelSpace
    training: TrainingConfig
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    expert_loads: list[float] = field(default_factory=list)
    frozen_sums: dict[str, float] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    intervals: bool = True


@dataclass(kw_only=True)
class SiteUpdate:
    """One site's contribution to a round.

    Attributes:
        round: the round it answers.
        tensors: trainable parameters after local training (while it travels in a format that rounds: their change).
        examples: training examples of the site.
        routed_samples_K: samples that the router sent to each expert during the round.
        observed_labels_Y: known labels seen, by head row.
        metrics: numbers about the training, for the record of the round.
    """

    round: int
    tensors: Mapping[str, torch.Tensor]
    examples: float
    routed_samples_K: torch.Tensor
    observed_labels_Y: torch.Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SiteIntroduction:
    """What a site tells about itself before the first round.

    Attributes:
        name: the hospital's name in the federation.
        label_space: its own labels.
        version: version of the framework installed there.
    """

    name: str
    label_space: LabelSpace
    version: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """A train or evaluate request, read and checked.

    Attributes:
        config: what the server decided.
        tensors: the global parameters.
        reply_codec: number format that the server wants back.
        version: version of the framework at the server.
    """

    config: RoundConfig
    tensors: "ReceivedTensors"
    reply_codec: str
    version: str


def build_request(
    config: RoundConfig,
    tensors: Mapping[str, torch.Tensor],
    codec: str,
    reply_codec: str | None = None,
    *,
    encode: Callable[[Mapping[str, torch.Tensor], str], ArrayRecord] | None = None,
) -> RecordDict:
    """A train or evaluate request.

    Args:
        config: what the server decides.
        tensors: the global parameters.
        codec: their number format on the wire.
        reply_codec: number format of the replies; ``None``: the same.
        encode: makes Flower arrays of ``tensors``; ``None``: :func:`encode_arrays`, which makes all of them at once.
    """
    decided = {
        **{name: getattr(config, name) for name in _PLAIN_FIELDS},
        "model": to_mapping(config.model),
        "label_space": config.label_space.to_dict(),
        "training": to_mapping(config.training),
        "privacy": to_mapping(config.privacy),
        "splits": list(config.splits),
    }
    return RecordDict(
        {
            "arrays": (encode or encode_arrays)(tensors, codec),
            "config": ConfigRecord(
                {
                    "version": version("medvlmoe"),
                    "codec": codec,
                    "reply_codec": reply_codec or codec,
                    "round": json.dumps(decided),
                }
            ),
        }
    )


def read_request(content: RecordDict) -> Request:
    """A train or evaluate request.

    Raises:
        InvalidMessageError: a record or key is missing, a value is malformed, or there is a key that the server has
            no say in.
    """
    try:
        record = _record(content, "config", ConfigRecord)
        _only_keys(record, _CONFIG_KEYS, "the request's config")
        if record["codec"] not in CODECS:
            raise InvalidMessageError(f"parameters in codec '{record['codec']}'; there are {', '.join(CODECS)}")
        codec_by_name(str(record["reply_codec"]))
        decided = json.loads(str(record["round"]))
        _only_keys(decided, (*_PLAIN_FIELDS, *_NESTED_FIELDS), "the round")
        config = RoundConfig(
            **{name: decided[name] for name in _PLAIN_FIELDS},
            model=from_mapping(MedVLMoEConfig, decided["model"]),
            label_space=LabelSpace.from_dict(decided["label_space"]),
            training=from_mapping(TrainingConfig, decided["training"]),
            privacy=from_mapping(PrivacyConfig, decided["privacy"]),
            splits=tuple(decided["splits"]),
        )
        if not isinstance(config.run, str) or not _PLAIN_NAME.fullmatch(config.run):
            raise InvalidMessageError("the run's identity is not a plain name")
        return Request(
            config=config,
            tensors=ReceivedTensors(_record(content, "arrays", ArrayRecord), str(record["codec"])),
            reply_codec=str(record["reply_codec"]),
            version=str(record["version"]),
        )
    except InvalidMessageError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as error:
        raise InvalidMessageError(f"malformed request: {error}") from error


def build_reply(update: SiteUpdate, codec: str) -> RecordDict:
    """A train reply. ``update.tensors`` are the parameters for ``float32`` and their change for the other codecs."""
    return RecordDict(
        {
            "arrays": encode_arrays(update.tensors, codec),
            "metrics": MetricRecord({"round": update.round, **update.metrics}),
            "weights": MetricRecord(
                {
                    "examples": float(update.examples),
                    "routed_samples": [float(count) for count in update.routed_samples_K],
                    "observed_labels": [float(count) for count in update.observed_labels_Y],
                }
            ),
        }
    )


def read_reply(
    content: RecordDict,
    *,
    base: Mapping[str, torch.Tensor],
    codec: str,
    server_round: int,
    expert_count: int,
    label_count: int,
) -> SiteUpdate:
    """A train reply, fully checked against what was sent out.

    Args:
        content: the reply.
        base: global parameters of the round; names and shapes must be the same.
        codec: number format that the request asked for.
        server_round: the round that is being merged; a late reply of another round is refused.
        expert_count: length of the routed counts (0 for a model without experts).
        label_count: length of the label counts.

    Raises:
        InvalidMessageError: missing or extra key, wrong shape or type, NaN or infinity, negative weight, other round.
    """
    metrics = _record(content, "metrics", MetricRecord)
    if metrics.get("round") != server_round:
        raise InvalidMessageError(f"answers round {_short(metrics.get('round'))}, not round {server_round}")
    _check_metrics(metrics)
    weights = _record(content, "weights", MetricRecord)
    update = SiteUpdate(
        round=server_round,
        tensors={},
        examples=float(_counts(weights, "examples", None)[0]),
        routed_samples_K=_counts(weights, "routed_samples", expert_count),
        observed_labels_Y=_counts(weights, "observed_labels", label_count),
        metrics={name: value for name, value in metrics.items() if name != "round"},
    )
    if update.examples <= 0:
        raise InvalidMessageError("weight 'examples' is zero: nothing was trained")
    arrays = _record(content, "arrays", ArrayRecord)
    _same_names(arrays, base)
    update.tensors = ReceivedTensors(arrays, codec, base)
    for name, tensor in update.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidMessageError(f"'{name}' holds NaN or infinity")
    return update


def build_evaluation_reply(server_round: int, metrics: Mapping[str, Metric]) -> RecordDict:
    """An evaluate reply: numbers only, named ``split/metric``."""
    return RecordDict({"metrics": MetricRecord({"round": server_round, **metrics})})


def read_evaluation_reply(content: RecordDict, server_round: int) -> dict[str, Metric]:
    """The metrics of an evaluate reply.

    Raises:
        InvalidMessageError: no metrics, another round, or a number that is not finite.
    """
    metrics = dict(_record(content, "metrics", MetricRecord))
    if metrics.pop("round", None) != server_round:
        raise InvalidMessageError(f"answers another round than {server_round}")
    _check_metrics(metrics)
    return metrics


def build_introduction_request() -> RecordDict:
    """The question who a site is."""
    return RecordDict({"config": ConfigRecord({"version": version("medvlmoe")})})


def read_introduction_request(content: RecordDict) -> str:
    """The version of the framework at the server.

    Raises:
        InvalidMessageError: the server does not tell it, or tells more.
    """
    record = _record(content, "config", ConfigRecord)
    _only_keys(record, ("version",), "the query's config")
    return str(record.get("version", ""))


def build_introduction(introduction: SiteIntroduction) -> RecordDict:
    """The reply to an introduction query."""
    described = {**asdict(introduction), "label_space": introduction.label_space.to_dict()}
    return RecordDict({"site": ConfigRecord({"introduction": json.dumps(described)})})


def read_introduction(content: RecordDict) -> SiteIntroduction:
    """What a site told about itself.

    Raises:
        InvalidMessageError: malformed, or an empty name.
    """
    text = str(_record(content, "site", ConfigRecord).get("introduction"))
    if len(text) > _LONGEST_INTRODUCTION:
        raise InvalidMessageError(f"an introduction of {len(text)} characters")
    try:
        described = json.loads(text)
        introduction = SiteIntroduction(
            name=str(described["name"]),
            label_space=LabelSpace.from_dict(described["label_space"]),
            version=str(described["version"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise InvalidMessageError(f"malformed introduction ({type(error).__name__})") from error
    if not introduction.name:
        raise InvalidMessageError("a site without a name")
    return introduction


def encode_arrays(tensors: Mapping[str, torch.Tensor], codec: str) -> ArrayRecord:
    """Parameters as Flower arrays in the codec's number format."""
    encode = codec_by_name(codec).encode
    return ArrayRecord({name: encode(tensor) for name, tensor in tensors.items()})


def decode_arrays(arrays: ArrayRecord, codec: str) -> dict[str, torch.Tensor]:
    """Flower arrays as float32 tensors.

    Raises:
        InvalidMessageError: unknown codec, or an array in another number format.
    """
    return dict(ReceivedTensors(arrays, codec))


class ReceivedTensors(Mapping[str, torch.Tensor]):
    """Flower arrays as float32 tensors, each decoded when it is asked for: a large model is never there twice.

    Args:
        arrays: what was received.
        codec: its number format.
        base: for a reply, the parameters that were sent out: they give the shapes, and a codec that is not exact
            carries the change from them.

    Raises:
        InvalidMessageError: unknown codec; when a tensor is asked for: its array has another number format or shape.
    """

    def __init__(self, arrays: ArrayRecord, codec: str, base: Mapping[str, torch.Tensor] | None = None) -> None:
        try:
            self._codec = codec_by_name(codec)
        except ValueError as error:
            raise InvalidMessageError(str(error)) from error
        self._arrays, self._base = arrays, base

    def __getitem__(self, name: str) -> torch.Tensor:
        array = _in_memory(self._arrays[name])
        base = None if self._base is None else self._base[name]
        if base is not None:
            size, right = len(array.data), self._codec.byte_count(base.shape)
            if size > right + _HEADER_BYTES:
                raise InvalidMessageError(f"'{name}' has {size} bytes where {right} were asked for")
        try:
            tensor = self._codec.decode(array, None if base is None else base.shape)
        except (ValueError, TypeError, EOFError, MemoryError) as error:  # a forged header may name any size
            raise InvalidMessageError(f"'{name}' {_short(error)}") from error
        return tensor if base is None or self._codec.exact else base + tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


_PLAIN_FIELDS = ("run", "round", "rounds", "local_epochs", "keep_optimizer_state", "seed", "intervals",
                 "frozen_sums", "expert_loads")  # fmt: skip
_NESTED_FIELDS = ("model", "label_space", "training", "privacy", "splits")
_CONFIG_KEYS = ("version", "codec", "reply_codec", "round")
_METRIC_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")  # label names are in some of them
_HEADER_BYTES = 4096  # of NumPy's format
_MOST_METRICS, _MOST_NUMBERS, _LONGEST_INTRODUCTION, _SHOWN = 2_000, 100_000, 1_000_000, 100
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)


def _in_memory(array: Array) -> Array:
    """The same array with its bytes at hand: at the server they lie on disk, and each look at them reads all again."""
    return Array(array.dtype, array.shape, array.stype, array.data)


def _only_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidMessageError(f"{where} sets '{unknown[0]}', which the server has no say in" + _and_more(unknown))


def _record(content: RecordDict, name: str, kind: type) -> Any:
    record = content.get(name)
    if not isinstance(record, kind):
        raise InvalidMessageError(f"no {kind.__name__} '{name}'")
    return record


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    """What a site reports goes into files and tables, round after round: it must be few, short and finite."""
    if len(metrics) > _MOST_METRICS:
        raise InvalidMessageError(f"{len(metrics)} metrics, more than {_MOST_METRICS}")
    numbers = 0
    for name, value in metrics.items():
        if not _METRIC_NAME.fullmatch(name):
            raise InvalidMessageError(f"a metric is called {_short(name)!r}")
        listed = value if isinstance(value, list) else [value]
        numbers += len(listed)
        if numbers > _MOST_NUMBERS:
            raise InvalidMessageError(f"more than {_MOST_NUMBERS} numbers in its metrics")
        if not all(math.isfinite(number) for number in listed):
            raise InvalidMessageError(f"metric '{name}' is not finite")


def _short(value: Any) -> str:
    """Something received, as it may stand in a message."""
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _counts(weights: Mapping[str, Any], name: str, length: int | None) -> torch.Tensor:
    value = weights.get(name)
    if value is None:
        raise InvalidMessageError(f"no weight '{name}'")
    numbers: Sequence[float] = value if isinstance(value, list) else [value]
    if length is not None and len(numbers) != length:
        raise InvalidMessageError(f"weight '{name}' has {len(numbers)} numbers, not {length}")
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        raise InvalidMessageError(f"weight '{name}' is negative or not finite")
    return torch.tensor(numbers, dtype=torch.float64)


def _same_names(arrays: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    missing, extra = sorted(base.keys() - arrays.keys()), sorted(arrays.keys() - base.keys())
    if missing:
        raise InvalidMessageError(f"parameter '{missing[0]}' is missing" + _and_more(missing))
    if extra:
        raise InvalidMessageError(f"parameter '{_short(extra[0])}' was not asked for" + _and_more(extra))


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
