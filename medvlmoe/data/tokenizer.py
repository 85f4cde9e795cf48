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
_SPECIAL_PIECES = frozenset({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"})  # of a BERT


class Tokenizer(Protocol):
    """What data sets need of a tokenizer."""

    vocabulary_size: int
    mask_token: int

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 N x L with L = ``max_tokens``, padded on the right."""

    def word_bounds(self) -> tuple[Tensor, Tensor]:
        """For each token of the vocabulary, whether a word begins with it and whether one ends with it (bool)."""


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token: needs no files."""

    vocabulary_size = _FIRST_BYTE + 256
    mask_token = UNKNOWN

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`."""
        return _padded([[END, *(byte + _FIRST_BYTE for byte in text.encode())] for text in texts], max_tokens)

    def word_bounds(self) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`: a blank ends a word."""
        ends = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        ends[ord(" ") + _FIRST_BYTE] = True
        return torch.zeros_like(ends), ends


class BioGptTokenizer:
    """The tokenizer of BioGPT, from a folder or a hub id."""

    mask_token = UNKNOWN

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

    def word_bounds(self) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`: the last piece of a word is written ``piece</w>``."""
        pieces = self._tokenizer.convert_ids_to_tokens(range(self.vocabulary_size))
        ends = torch.tensor([piece.endswith("</w>") or piece.startswith("<") for piece in pieces])
        return torch.zeros_like(ends), ends


class BertTokenizer:
    """The word pieces of a BERT, from a folder with ``vocab.txt``."""

    def __init__(self, folder: Path) -> None:
        from transformers import BertTokenizerFast as Pretrained

        try:
            missing = _SPECIAL_PIECES.difference((folder / "vocab.txt").read_text(encoding="utf-8").split())
            if missing:  # transformers would add them, with numbers that no weights know
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            self._tokenizer = Pretrained.from_pretrained(str(folder))
            self.mask_token = int(self._tokenizer.mask_token_id)
        except Exception as error:
            raise ConfigError(
                f"model.text.tokenizer={folder}: its vocab.txt is not that of a BERT "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        self.vocabulary_size = len(self._tokenizer)

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`."""
        found = [self._tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
        return _padded(found, max_tokens, int(self._tokenizer.pad_token_id))

    def word_bounds(self) -> tuple[Tensor, Tensor]:
        """See :class:`Tokenizer`: a piece that goes on a word is written ``##piece``."""
        pieces = self._tokenizer.convert_ids_to_tokens(range(self.vocabulary_size))
        begins = torch.tensor([not piece.startswith("##") for piece in pieces])
        return begins, torch.zeros_like(begins)


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by name: ``byte``, a folder (of BioGPT or, with a ``vocab.txt``, of a BERT), or a hub id of BioGPT.

    Raises:
        ConfigError: there is no tokenizer of that name.
    """
    if name == "byte":
        return ByteTokenizer()
    folder = Path(name).expanduser()
    if (folder / "vocab.txt").is_file():
        return BertTokenizer(folder)
    if folder.is_dir():
        name = str(folder)
    return BioGptTokenizer(name)


def _padded(sequences: Sequence[Sequence[int]], max_tokens: int, padding: int = PAD) -> tuple[Tensor, Tensor]:
    input_ids_NL = torch.full((len(sequences), max_tokens), padding, dtype=torch.int64)
    mask_NL = torch.zeros((len(sequences), max_tokens), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        kept = torch.tensor(sequence[:max_tokens], dtype=torch.int64)
        input_ids_NL[row, : len(kept)] = kept
        mask_NL[row, : len(kept)] = 1
    return input_ids_NL, mask_NL
