"""GLoRIA's losses between the regions of an image and the words of a report.

Shapes: I images, J reports, B pairs (I = J = B), N regions, W words, P shared width.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from medvlmoe.baselines.losses.full_precision import outside_autocast

_TINY = 1e-8


@outside_autocast
def global_match_loss(image_BP: Tensor, text_BP: Tensor, temperature: float = 10.0) -> Tensor:
    """Cross-entropy of ``temperature`` times the cosines, an image among the texts plus a text among the images."""
    cosine_BB = normalize(image_BP.float(), dim=-1) @ normalize(text_BP.float(), dim=-1).T
    return _both_directions(temperature * cosine_BB)


def local_match_loss(
    region_BNP: Tensor,
    word_BWP: Tensor,
    word_mask_BW: Tensor,
    attention_temperature: float = 4.0,
    word_temperature: float = 5.0,
    match_temperature: float = 10.0,
) -> Tensor:
    """The same with the similarity of :func:`word_region_similarity` in place of the cosine of whole vectors."""
    similarity_BB = word_region_similarity(region_BNP, word_BWP, word_mask_BW, attention_temperature, word_temperature)
    return _both_directions(match_temperature * similarity_BB)


@outside_autocast
def word_region_similarity(
    region_INP: Tensor,
    word_JWP: Tensor,
    word_mask_JW: Tensor,
    attention_temperature: float = 4.0,
    word_temperature: float = 5.0,
) -> Tensor:
    """How well each report's words find themselves in each image, shape (I, J) (Huang et al. 2021, equations 2 to 5).

    The products s_nw of regions and words are made a softmax over the **words** first. Times temp1, their softmax over
    the **regions** is the attention of a word; c_w is the mean of the regions under it. The similarity is
    ``log sum_w exp(temp2 * cos(c_w, word w))``.

    Args:
        region_INP: region vectors.
        word_JWP: word vectors.
        word_mask_JW: true for words, false for padding, which has no part in either softmax or sum.
        attention_temperature: temp1.
        word_temperature: temp2.
    """
    region_INP, word_JWP, word_mask_JW = region_INP.float(), word_JWP.float(), word_mask_JW.bool()
    product_IJNW = torch.einsum("inp,jwp->ijnw", region_INP, word_JWP)
    product_IJNW = product_IJNW.masked_fill(~word_mask_JW[None, :, None, :], -torch.inf)
    over_words_IJNW = product_IJNW.softmax(-1)
    attention_IJNW = (attention_temperature * over_words_IJNW).softmax(-2)
    context_IJWP = torch.einsum("ijnw,inp->ijwp", attention_IJNW, region_INP)
    cosine_IJW = cosine_similarity(context_IJWP, word_JWP.unsqueeze(0), dim=-1, eps=_TINY)
    return (word_temperature * cosine_IJW).masked_fill(~word_mask_JW.unsqueeze(0), -torch.inf).logsumexp(-1)


def _both_directions(similarity_BB: Tensor) -> Tensor:
    own_B = torch.arange(len(similarity_BB), device=similarity_BB.device)
    return cross_entropy(similarity_BB, own_B) + cross_entropy(similarity_BB.T, own_B)
