"""The command ``medvlmoe receipts``."""

import math
from pathlib import Path

from flwr.app import RecordDict

from client.account import budget_of
from client.config import read_site_config
from client.receipts.chain import ReceiptChain, Verdict
from client.receipts.receipt import ACCOUNT, Receipt, describe
from medvlmoe.errors import EXIT_USER_ERROR, ConfigError
from strategies.error_codes import words_of

_USAGE = """medvlmoe receipts verify site.yaml|receipts.jsonl   exit code 0, or 2 and the first broken line
medvlmoe receipts show site.yaml|receipts.jsonl     what has left this site
medvlmoe receipts new-account site.yaml             spent privacy is counted from 0: only for other data"""


def receipts(arguments: list[str]) -> int:
    """Check or show the receipts of a site; returns the exit code.

    Raises:
        ConfigError: a malformed command, or no such file.
    """
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(_USAGE)
        return 0
    if len(arguments) != 2 or arguments[0] not in ("verify", "show", "new-account"):
        raise ConfigError(f"usage: {_USAGE}")
    if arguments[0] == "new-account":
        return _begin_account(Path(arguments[1]))
    path = _file_of(Path(arguments[1]))
    verdict = ReceiptChain(path).verify()
    if arguments[0] == "show":
        for receipt in verdict.receipts:
            _print_receipt(receipt)
    _print_verdict(path, verdict)
    return 0 if verdict.fault is None else EXIT_USER_ERROR


def _begin_account(path: Path) -> int:
    """A receipt first: who stops in between is still charged for what was spent."""
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"give the site.yaml, not {path}")
    site = read_site_config(path)
    entry = describe(ACCOUNT, RecordDict(), "", norms={}, run="", server_round=0, codec="")
    receipt = ReceiptChain(site.receipts_file).append(entry)
    aside = budget_of(site).begin_anew()
    where = "there was no account" if aside is None else f"the old account is {aside}"
    print(f"receipt {receipt.number}: spent privacy is counted from 0; {where}")
    return 0


def _file_of(path: Path) -> Path:
    if path.suffix in (".yaml", ".yml"):
        return read_site_config(path).receipts_file
    if not path.exists():
        raise ConfigError(f"no file {path}; give the site.yaml or its receipts.jsonl")
    return path


def _print_verdict(path: Path, verdict: Verdict) -> None:
    if verdict.fault is not None:
        print(f"{path}: {verdict.fault}")
        return
    print(f"{path}: {len(verdict.receipts)} receipts, the chain holds; last hash {verdict.head}")
    if verdict.torn:
        print("half a line at the end: a crash while a receipt was written; its reply never left")


def _print_receipt(receipt: Receipt) -> None:
    kind = receipt.kind if receipt.code is None else f"{receipt.kind} {receipt.code} ({words_of(receipt.code)})"
    run = f"{receipt.run} round {receipt.round}" if receipt.run else ""
    print(f"{receipt.number:>5}  {receipt.time[:19].replace('T', ' ')}  {kind}  {run}".rstrip())
    if receipt.groups:
        size = sum(group.bytes for group in receipt.groups.values())
        norm = math.hypot(*(math.nan if group.norm is None else group.norm for group in receipt.groups.values()))
        print(f"       {', '.join(receipt.groups)}: {size / 1e6:.2f} MB {receipt.codec}, change {norm:.4g}")
    if receipt.metrics:
        print(f"       {', '.join(receipt.metrics)}")
