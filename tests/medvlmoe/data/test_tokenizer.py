from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.data import load_tokenizer
from medvlmoe.errors import ConfigError

BIOGPT = Path(__file__).resolve().parents[3].parent / "shared" / "biogpt_tokenizer"
needs_biogpt = pytest.mark.skipif(not BIOGPT.is_dir(), reason=f"no BioGPT tokenizer at {BIOGPT}")


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4), st.integers(1, 30))
def test_bytes_are_padded_right_and_can_be_read_back(texts, max_tokens):
    input_ids_NL, mask_NL = load_tokenizer("byte").encode(texts, max_tokens)
    assert input_ids_NL.shape == mask_NL.shape == (len(texts), max_tokens)
    assert input_ids_NL.dtype == mask_NL.dtype == torch.int64
    for text, ids_L, mask_L in zip(texts, input_ids_NL, mask_NL, strict=True):
        count = int(mask_L.sum())
        assert mask_L.tolist() == [1] * count + [0] * (max_tokens - count)
        assert ids_L[0] == 2
        assert (ids_L[count:] == 1).all()
        assert bytes((ids_L[1:count] - 4).tolist()) == text.encode()[: max_tokens - 1]


def test_every_id_is_in_the_vocabulary():
    tokenizer = load_tokenizer("byte")
    assert tokenizer.vocabulary_size == 260
    assert int(tokenizer.encode(["\U0010ffff ÿ"], 16)[0].max()) < 260


@needs_biogpt
def test_biogpt_tokens():
    tokenizer = load_tokenizer(str(BIOGPT))
    texts = ["Bilateral pleural effusion with cardiomegaly.", "Cough."]
    input_ids_NL, mask_NL = tokenizer.encode(texts, 12)
    assert input_ids_NL[0].tolist() == [2, 10699, 4382, 6974, 15, 6439, 17921, 4, 1, 1, 1, 1]
    assert mask_NL[0].tolist() == [1] * 8 + [0] * 4
    assert input_ids_NL[1, 0] == 2
    assert tokenizer.vocabulary_size == 42384


@needs_biogpt
def test_biogpt_cuts_long_texts():
    input_ids_NL, mask_NL = load_tokenizer(str(BIOGPT)).encode(["effusion " * 99], 5)
    assert input_ids_NL.shape == (1, 5)
    assert mask_NL.all()


def test_an_unknown_tokenizer_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="not 'byte', a folder") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)
