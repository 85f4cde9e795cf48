"""Contrastive loss of image and text pairs. Shapes: B pairs, P shared width."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from medvlmoe.baselines.losses.full_precision import outside_autocast


@outside_autocast
def contrastive_loss(image_BP: Tensor, text_BP: Tensor, temperature: float, image_weight: float = 0.5) -> Tensor:
    """Weighted InfoNCE in both directions (ConVIRT, equations 2 to 4; BioViL's global loss with equal weights).

    With s_ij the cosine of image i and text j over the temperature, the mean over i of
    ``image_weight * -log softmax_j(s_ij)[i] + (1 - image_weight) * -log softmax_j(s_ji)[i]``: an image among the texts
    of the batch, and a text among its images.

    Args:
        image_BP: image vectors, of any length.
        text_BP: text vectors; row i belongs to image i.
        temperature: tau, above 0.
        image_weight: lambda.
    """
    similarity_BB = normalize(image_BP.float(), dim=-1) @ normalize(text_BP.float(), dim=-1).T / temperature
    own_B = torch.arange(len(similarity_BB), device=similarity_BB.device)
    image_to_text, text_to_image = cross_entropy(similarity_BB, own_B), cross_entropy(similarity_BB.T, own_B)
    return image_weight * image_to_text + (1 - image_weight) * text_to_image
