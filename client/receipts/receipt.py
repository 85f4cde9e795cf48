"""One receipt: what left the site in one reply, without the values themselves."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from medvlmoe.model.groups import parameter_group

ACCOUNT = "account"
"""Kind of the receipt with which a site's account of spent privacy begins anew; nothing leaves with it."""

REPETITION = "repetition"
"""Kind of the receipt of a training reply that leaves once more, byte for byte: nothing was trained for it."""

FIRST = "0" * 64  # "hash of the previous receipt" of the first one


@dataclass(frozen=True, kw_only=True)
class SentGroup:
    """The part of an upload that belongs to one parameter group.

    Attributes:
        tensors: how many.
        bytes: their size on the wire.
        norm: L2 norm of their change, before it was rounded to the codec; ``None`` if that is no finite number.
    """

    tensors: int
    bytes: int
    norm: float | None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What left in one reply.

    Attributes:
        number: place in the file, from 1.
        time: when, in UTC (ISO 8601).
        kind: ``introduction``, ``training``, ``evaluation``, ``error``, or ``REPETITION`` or ``ACCOUNT``.
        flower_run: Flower's number of the run.
        run: the server's name of the run; empty where it is not told.
        round: the round that was answered; 0 where there is none.
        groups: what left, by parameter group; empty but for training and its repetition.
        codec: its number format.
        metrics: names of the metrics that left.
        code: the error code, if the reply was one.
        privacy: what the reply released of the records, as the account charges it (unit and mechanisms, JSON); empty
            where it was not private, and in receipts from before they held it.
        sha256: of the reply's content, see :func:`content_digest`.
        previous: ``hash`` of the receipt before.
        hash: of this receipt, all other fields together.
    """

    number: int
    time: str
    kind: str
    flower_run: str
    run: str = ""
    round: int = 0
    groups: dict[str, SentGroup] = field(default_factory=dict)
    codec: str = ""
    metrics: list[str] = field(default_factory=list)
    code: int | None = None
    privacy: str = ""
    sha256: str
    previous: str
    hash: str = ""

    @property
    def moment(self) -> datetime:
        """``time`` as a time."""
        return datetime.fromisoformat(self.time)

    def to_line(self) -> dict[str, Any]:
        """As a line of the file. ``privacy`` is there only if it says something: older receipts are without."""
        return {name: value for name, value in asdict(self).items() if name != "privacy" or value}

    def own_hash(self) -> str:
        """SHA-256 of all fields of the line but ``hash``, as JSON with sorted keys and no blanks."""
        fields = {name: value for name, value in self.to_line().items() if name != "hash"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def from_line(cls, value: Any) -> "Receipt":
        """The receipt of one line of the file.

        Raises:
            ValueError: it is none.
        """
        try:
            groups = {name: SentGroup(**group) for name, group in value["groups"].items()}
            receipt = cls(**{**value, "groups": groups})
            _ = receipt.moment
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("no receipt") from error
        return receipt


def describe(
    kind: str,
    content: RecordDict,
    flower_run: str,
    norms: Mapping[str, float],
    run: str,
    server_round: int,
    codec: str,
    privacy: str = "",
) -> dict[str, Any]:
    """The fields of a receipt that the content of a reply tells; the chain adds the others.

    Args:
        kind: see :class:`Receipt`.
        content: the reply.
        flower_run: Flower's number of the run.
        norms: L2 norm of the change, by group.
        run: the server's name of the run.
        server_round: the round.
        codec: number format of the arrays.
        privacy: what was charged for it.
    """
    metrics = [name for record in content.values() if isinstance(record, MetricRecord) for name in record]
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": kind,
        "flower_run": flower_run,
        "run": run,
        "round": server_round,
        "groups": _groups(content, norms),
        "codec": codec,
        "privacy": privacy,
        "metrics": sorted(set(metrics) - {"round"}),
        "sha256": content_digest(content),
    }


def content_digest(content: RecordDict) -> str:
    """SHA-256 over the content of a reply.

    Of every record, in the order of the names: name; then of every entry, in the order of the names: name, kind and
    value. An array's value is its bytes as Flower sends them, any other value is JSON. Every part is preceded by its
    length in 8 bytes, so that no two contents give the same bytes.
    """
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)

    for record_name in sorted(content):
        record = content[record_name]
        add(record_name.encode())
        for name in sorted(record):
            add(name.encode())
            if isinstance(record, ArrayRecord):
                array = record[name]
                add(json.dumps([array.dtype, list(array.shape), array.stype]).encode())
                add(array.data)
            elif isinstance(record, MetricRecord | ConfigRecord):
                add(json.dumps(record[name]).encode())
    return digest.hexdigest()


def _groups(content: RecordDict, norms: Mapping[str, float]) -> dict[str, SentGroup]:
    arrays = content.get("arrays")
    counts: dict[str, tuple[int, int]] = {}
    for name, array in arrays.items() if isinstance(arrays, ArrayRecord) else ():
        group = parameter_group(name)
        tensors, size = counts.get(group, (0, 0))
        counts[group] = (tensors + 1, size + len(array.data))
    return {
        group: SentGroup(tensors=tensors, bytes=size, norm=norms[group] if math.isfinite(norms[group]) else None)
        for group, (tensors, size) in counts.items()
    }
