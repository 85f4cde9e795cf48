"""MedCLIP's loss: pairs are as similar as their labels. Shapes: I images, J texts, P shared width, Y labels."""

from torch import Tensor
from torch.nn.functional import normalize

from medvlmoe.baselines.losses.full_precision import outside_autocast


@outside_autocast
def soft_target_loss(
    image_IP: Tensor, text_JP: Tensor, image_labels_IY: Tensor, text_labels_JY: Tensor, logit_scale: float | Tensor
) -> Tensor:
    """Cross-entropy of cosines against the similarity of labels, both ways (Wang et al. 2022, equations 3 to 6).

    With S = l_image l_text^T: half the sum of ``-mean_i sum_j softmax_j(S)_ij log softmax_j(logits)_ij`` and of the
    same with images and texts exchanged.

    Args:
        image_IP: image vectors.
        text_JP: text vectors; they need not be those of the images.
        image_labels_IY: 1 positive, -1 negative, 0 uncertain or unknown (:func:`signed_labels`).
        text_labels_JY: the same of the texts.
        logit_scale: factor of the cosines.
    """
    logits_IJ = logit_scale * (normalize(image_IP.float(), dim=-1) @ normalize(text_JP.float(), dim=-1).T)
    label_similarity_IJ = image_labels_IY.float() @ text_labels_JY.float().T
    return (_soft_cross_entropy(logits_IJ, label_similarity_IJ)
            + _soft_cross_entropy(logits_IJ.T, label_similarity_IJ.T)) / 2  # fmt: skip


def signed_labels(labels_BY: Tensor) -> Tensor:
    """0 and 1 to -1 and 1, unknown (NaN) to 0; a soft target lies between."""
    return (2 * labels_BY - 1).nan_to_num(0.0)


def _soft_cross_entropy(logits_AB: Tensor, scores_AB: Tensor) -> Tensor:
    return -(scores_AB.softmax(-1) * logits_AB.log_softmax(-1)).sum(-1).mean()
