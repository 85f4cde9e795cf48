"""Where the paper contradicts itself or what is published: a footnote each, shown wherever its number stands."""

from dataclasses import dataclass

from medvlmoe.analysis.reproduction.paper_values import BENCHMARKS, TABLE1, TITLES, best_baseline, delta_to
from medvlmoe.model.ablations import FULL


@dataclass(frozen=True, kw_only=True)
class Footnote:
    """A remark on the paper.

    Attributes:
        text: one or two sentences.
        kind: the data set whose column or table it belongs to; ``None``: all.
        model: the row it belongs to; ``None``: all.
    """

    text: str
    kind: str | None = None
    model: str | None = None


def table1_footnotes() -> list[Footnote]:
    """Remarks on Table 1; every delta in them is computed from its numbers."""
    to_clip_med = [delta_to("clip_med", kind) for kind in BENCHMARKS]
    listed = ", ".join(f"{delta:.1f}" for delta in to_clip_med)
    best = {kind: best_baseline(kind) for kind in BENCHMARKS}
    others = [f"{BENCHMARKS[kind]} ({TITLES[name]}, +{delta_to(name, kind):.1f})"
              for kind, name in best.items() if name != "clip_med"]  # fmt: skip
    path = TABLE1[FULL]["pathmnist"].auc
    retina = TABLE1[FULL]["retinamnist"].auc
    return [
        Footnote(
            text=f"MedVLMoE minus CLIP-Med in the paper's own table: {listed} points. The abstract says 3.7-6.3 %, the "
            "introduction 3.7-6.2 %, section 4.1 +5.7-6.2 % for radiology; 3.7 is nowhere in the table (A14).",
            model=FULL,
        ),
        Footnote(
            text=f"The paper calls CLIP-Med the best baseline. By its table another one is on {' and '.join(others)} "
            "(A15). It cites nothing for CLIP-Med; it is read as MedCLIP (A25).",
            model="clip_med",
        ),
        Footnote(
            text=f"The paper calls its gains best on PathMNIST (+{delta_to('clip_med', 'pathmnist'):.1f}) and "
            f"RetinaMNIST (+{delta_to('clip_med', 'retinamnist'):.1f}) and more moderate in radiology. By its table "
            f"ChestX-ray14 (+{delta_to('clip_med', 'chestxray14'):.1f}) and MIMIC-CXR "
            f"(+{delta_to('clip_med', 'mimic_cxr'):.1f}) gain more than PathMNIST (A16).",
            model=FULL,
        ),
        Footnote(
            text="The paper's ± is called a 95 % interval over 3 seeds. By Student's t it would be 2.48 standard "
            "deviations, by the normal distribution 1.13; the paper does not say which (A21). Ours is Student's t.",
        ),
        Footnote(
            text="ChestX-ray14 has no report text. Age, sex and view alone give a mean AUC of 0.600 on the official "
            "test list; 89.3 is 3.4 points above the best published image model.",
            kind="chestxray14",
        ),
        Footnote(
            text="Which labels are averaged decides: 91.2 is plausible for the 5 competition labels (leaderboard "
            "models 91.8-93.0), not for all 14. The paper does not say which, nor what it does with uncertain and "
            "blank labels.",
            kind="chexpert",
        ),
        Footnote(
            text="The paper's 227,835 are studies; the images are 377,110 (A22). Labels come from the reports: a model "
            "that reads them at test time reads the answer. With blank labels as unknown or as 0 published AUCs differ "
            "by about 10 points.",
            kind="mimic_cxr",
        ),
        Footnote(
            text=f"The paper's {path:.1f} is below an ordinary ResNet-18 at 28 px (98.2); all six values look like "
            "accuracies. 89,996 is the training split alone (A22).",
            kind="pathmnist",
        ),
        Footnote(
            text=f"The paper's {retina:.1f} is above every published result (87.8 at 224 px, 75.4 at 28 px), as is its "
            "weakest baseline above everything at 28 px.",
            kind="retinamnist",
        ),
        Footnote(
            text="BioViL has a global objective and masked language modelling; the local-global alignment that the "
            "paper ascribes to it is GLoRIA's (A24).",
            model="biovil",
        ),
        Footnote(
            text="The paper cites nothing for BioBERT-VQA; it is read as BioBERT with MFH fusion (A25), the only "
            "baseline that reads text at test time.",
            model="biobert_vqa",
        ),
    ]


def table2_footnotes() -> list[Footnote]:
    """Remarks on Table 2."""
    return [
        Footnote(
            text="The text of section 4.3 names three ablations, its table has four. What tells 'w/o BioGPT' from "
            "'vision only' is not said; here the first keeps fusion and experts, with one learned vector in the place "
            "of the text, and the second has neither (A19).",
            model="no_biogpt",
        ),
        Footnote(
            text="The paper's largest losses (6.1 and 7.8 points) come from leaving out text on a data set that has "
            "none; age, sex and view can add little to an image model.",
            model="vision_only",
        ),
        Footnote(
            text="Not said in the paper: what stands in the place of the attention. Here pooled image and text tokens "
            "are concatenated (A20).",
            model="no_fusion",
        ),
        Footnote(
            text="Starts from the weights of the trained single FFN, so it has had twice the training.",
            model="upcycled",
        ),
    ]


FIGURE2_NOTE = (
    "The paper's Figure 2 promises five benchmarks and shows four, for three of its six models, on an axis named "
    "'AUC-ROC / Accuracy' (A17); here are all of them, AUC only."
)
