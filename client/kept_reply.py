"""The last training reply of a run stays at the site: the same request is answered with it again.

A reply can be lost on its way, and a round below its quorum is asked for again of everyone. Then a hospital trains
nothing anew, and under record-level privacy pays nothing: the same bytes leave once more.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from client.config import SiteConfig
from client.outgoing import OutgoingUpdate
from client.receipts.receipt import content_digest
from client.state import RoundTensors, StagedTensors
from medvlmoe.configuration import to_mapping
from medvlmoe.errors import CheckpointError

logger = logging.getLogger(__name__)

_DESCRIPTION = "description"  # no parameter has this name: theirs have dots


def request_key(site: SiteConfig, content: RecordDict, data: str) -> str:
    """SHA-256 of all that a training reply depends on: two requests with one key have the same answer.

    Args:
        site: the site's configuration, its policy included.
        content: the request.
        data: digest of the site's data.
    """
    own = json.dumps(to_mapping(site), sort_keys=True)
    return hashlib.sha256("\n".join([version("medvlmoe"), content_digest(content), own, data]).encode()).hexdigest()


@dataclass(frozen=True)
class KeptReply:
    """A training reply that was ready to leave.

    Attributes:
        update: the reply.
        privacy: what it releases of the records, as it was charged; empty without record-level privacy.
    """

    update: OutgoingUpdate
    privacy: str


class KeptReplies:
    """The last reply of one run at one site.

    Args:
        site: the site.
        run: identity of the run, chosen by the server.
    """

    def __init__(self, site: SiteConfig, run: str) -> None:
        self._files = RoundTensors(Path(site.folder), run, "reply", kept=1)

    def find(self, server_round: int, key: Callable[[], str]) -> KeptReply | None:
        """The reply of a round if it was to the same request; ``None`` too if its file cannot be read.

        Args:
            server_round: the round.
            key: gives the request's key; not called if no reply of that round is kept.
        """
        try:
            tensors = self._files.of(server_round)
            if tensors is None:
                return None
            described = json.loads(bytes(tensors[_DESCRIPTION].numpy()))
            if described["key"] != key():
                return None
            arrays = ArrayRecord()  # filled, not made of a mapping: that would copy all of it
            for name, (dtype, shape, stype) in described["arrays"].items():
                arrays[name] = Array(dtype, tuple(shape), stype, tensors[name].numpy().tobytes())
        except (CheckpointError, ValueError, KeyError, TypeError) as error:
            logger.warning("the reply kept of round %d cannot be read (%s): it is trained anew", server_round, error)
            return None
        records = {name: MetricRecord(values) for name, values in described["metrics"].items()}
        update = OutgoingUpdate(RecordDict({"arrays": arrays, **records}), described["norms"])
        return KeptReply(update, described["privacy"])

    def stage(self, server_round: int, key: str, reply: KeptReply) -> StagedTensors:
        """Write a reply, to be kept once it leaves; it takes the place of the one before.

        Raises:
            CheckpointError: it cannot be written.
        """
        return self._files.stage(server_round, _Bytes(key, reply))


class _Bytes(Mapping[str, torch.Tensor]):
    """A reply as tensors of bytes, each made when it is asked for."""

    def __init__(self, key: str, reply: KeptReply) -> None:
        content = reply.update.content
        self._arrays = content.array_records["arrays"]
        described = {
            "key": key,
            "privacy": reply.privacy,
            "norms": reply.update.norms,
            "arrays": {name: [array.dtype, array.shape, array.stype] for name, array in self._arrays.items()},
            "metrics": {name: dict(record) for name, record in content.metric_records.items()},
        }
        self._description = json.dumps(described).encode()

    def __getitem__(self, name: str) -> torch.Tensor:
        data = self._description if name == _DESCRIPTION else self._arrays[name].data
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8))

    def __iter__(self) -> Iterator[str]:
        yield _DESCRIPTION
        yield from self._arrays

    def __len__(self) -> int:
        return len(self._arrays) + 1
