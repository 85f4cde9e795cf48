import torch

from medvlmoe.baselines.words import WordPieces
from medvlmoe.data.tokenizer import ByteTokenizer


class Pieces:
    """un ##affected heart: word pieces as a BERT has them."""

    vocabulary_size, mask_token = 5, 4

    def encode(self, texts, max_tokens):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def word_bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        begins = torch.tensor([True, True, False, True, True])  # [CLS], un, ##affected, heart, [MASK]
        return begins, torch.zeros_like(begins)


def test_pieces_of_a_word_are_added_up() -> None:
    words = WordPieces(Pieces())
    ids_BL = torch.tensor([[0, 1, 2, 3], [0, 3, 1, 1]])
    mask_BL = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    states_BLT = torch.arange(8.0).reshape(2, 4, 1)
    assert words.word_of_token(ids_BL, mask_BL).tolist() == [[-1, 0, 0, 1], [-1, 0, -1, -1]]
    word_BWT, there_BW = words(states_BLT, ids_BL, mask_BL)
    assert word_BWT[..., 0].tolist() == [[3.0, 3.0], [5.0, 0.0]]
    assert there_BW.tolist() == [[True, True], [True, False]]


def test_bytes_make_words_at_blanks() -> None:
    words = WordPieces(ByteTokenizer())
    ids_BL, mask_BL = ByteTokenizer().encode(["no edema", "x", ""], 12)
    found = words.word_of_token(ids_BL, mask_BL)
    assert found[0].tolist() == [-1, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1, -1]
    assert found[1, :3].tolist() == [-1, 0, -1]
    assert found[2].tolist() == [0] + [-1] * 11  # an empty text is one word, so that no softmax is over nothing
