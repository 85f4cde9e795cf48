"""Text to token ids. Shape suffixes: N texts, L tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from medvlmoe.errors import ConfigError

# BioGPT's order of special tokens; every sequence starts with END, as BioGPT's do.
BEGIN, PAD, END, UNKNOWN = 0, 1, 2, 3
_FIRST_BYTE = 4


class Tokenizer(Protocol):
    """What data sets need of a tokenizer."""

    vocabulary_size: int

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 N x L with L = ``max_tokens``, padded on the right."""


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token: needs no files."""

    vocabulary_size = _FIRST_BYTE + 256

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`."""
        return _padded([[END, *(byte + _FIRST_BYTE for byte in text.encode())] for text in texts], max_tokens)


class BioGptTokenizer:
    """The tokenizer of BioGPT, from a folder or a hub id."""

    def __init__(self, name: str) -> None:
        from transformers import BioGptTokenizer as Pretrained

        try:
            self._tokenizer = Pretrained.from_pretrained(name)
        except Exception as error:  # transformers raises many kinds for a missing or damaged tokenizer
            raise ConfigError(
                f"model.text.tokenizer={name}: not 'byte', a folder with vocab.json and merges.txt, or a hub id that "
                f"can be reached ({' '.join(str(error).split())[:200]})"
            ) from error
        self.vocabulary_size = len(self._tokenizer)

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`."""
        return _padded([self._tokenizer(text)["input_ids"] for text in texts], max_tokens)


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by name: ``byte``, a folder, or a hub id such as ``microsoft/biogpt``.

    Raises:
        ConfigError: there is no tokenizer of that name.
    """
    if name == "byte":
        return ByteTokenizer()
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    return BioGptTokenizer(name)


def _padded(sequences: Sequence[Sequence[int]], max_tokens: int) -> tuple[Tensor, Tensor]:
    input_ids_NL = torch.full((len(sequences), max_tokens), PAD, dtype=torch.int64)
    mask_NL = torch.zeros((len(sequences), max_tokens), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        kept = torch.tensor(sequence[:max_tokens], dtype=torch.int64)
        input_ids_NL[row, : len(kept)] = kept
        mask_NL[row, : len(kept)] = 1
    return input_ids_NL, mask_NL
