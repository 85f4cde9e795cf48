"""Receipts: for everything that leaves a site, one line in a file at the site."""

from client.receipts.chain import ReceiptChain
from client.receipts.receipt import Receipt

__all__ = ["Receipt", "ReceiptChain"]
