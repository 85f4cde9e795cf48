"""The file of receipts: one line each, every line bound to the one before by its hash.

A second file holds the number of receipts and the last one's hash, so that lines cut off at the end are missed too.
What no file at the site can show is that somebody rewrote all of both; note the last hash elsewhere from time to time.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.receipts.receipt import FIRST, Receipt
from medvlmoe.errors import CheckpointError
from medvlmoe.files import append_json_line, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check of the file found.

    Attributes:
        receipts: the receipts up to the first fault.
        fault: the first fault and its line; ``None`` if the chain holds.
        torn: the file ends in half a line: a crash while a receipt was being written. Its reply never left.
    """

    receipts: list[Receipt] = field(default_factory=list)
    fault: str | None = None
    torn: bool = False

    @property
    def head(self) -> str:
        """Hash of the last receipt."""
        return self.receipts[-1].hash if self.receipts else FIRST


class ReceiptChain:
    """The receipts of one site.

    Args:
        path: the file of receipts; its name with ``.head`` added is the second file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head_file = path.with_name(f"{path.name}.head")

    def append(self, entry: Mapping[str, Any]) -> Receipt:
        """Add a receipt. When this returns it is on the disk.

        Args:
            entry: the fields that :func:`client.receipts.receipt.describe` gives.

        Raises:
            CheckpointError: the disk is full, or the chain is broken: then nothing may leave before somebody looked.
        """
        with self._alone():
            verdict = self.verify()
            if verdict.fault is not None:
                raise CheckpointError(f"{self.path}: {verdict.fault}; nothing leaves until this is looked into")
            unsigned = Receipt(**entry, number=len(verdict.receipts) + 1, previous=verdict.head)
            receipt = replace(unsigned, hash=unsigned.own_hash())
            append_json_line(self.path, receipt.to_line(), key=None)
            write_json(self._head_file, {"count": receipt.number, "hash": receipt.hash}, key=None)
            return receipt

    def receipts(self) -> list[Receipt]:
        """All receipts.

        Raises:
            CheckpointError: the chain is broken.
        """
        verdict = self.verify()
        if verdict.fault is not None:
            raise CheckpointError(f"{self.path}: {verdict.fault}; see medvlmoe receipts verify")
        return verdict.receipts

    def verify(self) -> Verdict:
        """Check every line and the second file."""
        try:
            text = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error}") from error
        *lines, rest = text.split(b"\n")
        receipts: list[Receipt] = []
        torn = bool(rest)
        for number, line in enumerate(lines, start=1):
            fault = _fault(line, number, receipts)
            if fault is not None:
                return Verdict(receipts=receipts, fault=f"line {number} {fault}", torn=torn)
        return Verdict(receipts=receipts, fault=self._fault_at_the_end(receipts), torn=torn)

    def _fault_at_the_end(self, receipts: list[Receipt]) -> str | None:
        count, last = self._head()
        if count > len(receipts):
            return f"line {len(receipts) + 1} is missing: {count} receipts were written, {len(receipts)} are there"
        # A crash between the two files leaves the second one receipt behind, never more.
        if len(receipts) - count > 1:
            return f"line {count + 2} is not known to {self._head_file.name}, which ends with line {count}"
        if last != (receipts[count - 1].hash if count else FIRST):
            return f"line {count} is not the one that {self._head_file.name} names"
        return None

    def _head(self) -> tuple[int, str]:
        if not self._head_file.exists():
            return 0, FIRST
        head = read_json(self._head_file)
        try:
            return int(head["count"]), str(head["hash"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self._head_file} is damaged; nothing leaves until this is looked into") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes of one site write one after the other."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(self.path.with_name(f"{self.path.name}.lock"), "w")  # noqa: SIM115
        except OSError as error:
            raise CheckpointError(f"cannot write beside {self.path}: {error}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _fault(line: bytes, number: int, receipts: list[Receipt]) -> str | None:
    """What is wrong with a line; ``None`` and the receipt is added if nothing is."""
    try:
        receipt = Receipt.from_line(json.loads(line))
    except ValueError:
        return "is not a receipt"
    if receipt.hash != receipt.own_hash():
        return "was altered"
    if receipt.number != number or receipt.previous != (receipts[-1].hash if receipts else FIRST):
        return f"is receipt {receipt.number}: a line before it was removed, added or moved"
    receipts.append(receipt)
    return None
