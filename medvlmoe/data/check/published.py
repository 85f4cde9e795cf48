"""Published counts of the five benchmarks.

Sources. ChestX-ray14: the official ``Data_Entry_2017_v2020.csv`` and lists, counted; totals agree with Wang et al.
2017. CheXpert: the official ``train.csv``, ``valid.csv`` and test ``groundtruth.csv``, counted; train by study equals
Table 1 of Irvin et al. 2019. MIMIC-CXR-JPG: the notebooks of MIT-LCP/mimic-cxr and Johnson et al. 2019; label counts
are those of the training studies on which both labelers agree, so that each labeler's own file has at least as many.
PathMNIST and RetinaMNIST: Yang et al. 2023 and the ``medmnist`` package.
"""

from collections.abc import Sequence

from medvlmoe.data.check.counts import NO_FINDING, PartCounts, SiteCounts
from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.known_labels import CHESTXRAY14, CHEXPERT, COLORECTAL_TISSUE, DIABETIC_RETINOPATHY


def published_counts(config: DatasetConfig, label_version: str = "v2020") -> SiteCounts | None:
    """What is published about the site's data set; ``None`` for a hospital's own.

    Args:
        config: the site's data.
        label_version: of ChestX-ray14, ``v2020`` or ``v1`` (2017).
    """
    if config.kind == "chestxray14":
        return _CHESTXRAY14_V1 if label_version == "v1" else _CHESTXRAY14_V2020
    if config.kind == "mimic_cxr" and (config.labeler, config.test_labels) != ("chexpert", "labeler"):
        return SiteCounts(parts=_MIMIC_CXR.parts)  # how many studies are labelled then is not published
    return _PUBLISHED.get(config.kind)


def _by_label(labels: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(labels, counts, strict=True))


def _positive(labels: Sequence[str], counts: Sequence[int]) -> dict[str, dict[str, int]]:
    return {"positive": _by_label(labels, counts)}


_NIH = (*CHESTXRAY14, NO_FINDING)
_NIH_VIEWS = {"views PA": 67_310, "views AP": 44_810}
_CHESTXRAY14_V2020 = SiteCounts(
    parts={
        "train_val": PartCounts(
            images=86_524, patients=28_008,
            labels=_positive(_NIH, (8280, 1707, 8659, 13782, 4034, 4708, 876, 2637, 2852, 1378, 1423, 1251, 2242, 141,
                                    50500)),
        ),
        "test": PartCounts(
            images=25_596, patients=2_797,
            labels=_positive(_NIH, (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86,
                                    9861)),
        ),
        "all": PartCounts(
            images=112_120, patients=30_805,
            labels=_positive(_NIH, (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385,
                                    227, 60361)),
        ),
    },
    facts={**_NIH_VIEWS, "rows of age 0": 14},
)  # fmt: skip
_CHESTXRAY14_V1 = SiteCounts(
    parts={
        "train_val": PartCounts(images=86_524, patients=28_008),
        "test": PartCounts(images=25_596, patients=2_797),
        "all": PartCounts(
            images=112_120, patients=30_805,
            labels=_positive(_NIH, (11535, 2772, 13307, 19870, 5746, 6323, 1353, 5298, 4667, 2303, 2516, 1686, 3385,
                                    227, 60412)),
        ),
    },
    facts=_NIH_VIEWS,
)  # fmt: skip

_CHEXPERT = SiteCounts(
    parts={
        "train": PartCounts(
            images=223_414, studies=187_641, patients=64_540,
            labels={
                "positive": _by_label(CHEXPERT, (22381, 10798, 27000, 105581, 9186, 52246, 14783, 6039, 33376, 19448,
                                                 86187, 3523, 9040, 116001)),
                "negative": _by_label(CHEXPERT, (0, 21638, 11116, 6599, 1270, 20726, 28097, 2799, 1328, 56341, 35396,
                                                 316, 2512, 6137)),
                "uncertain": _by_label(CHEXPERT, (0, 12403, 8087, 5598, 1488, 12984, 27742, 18770, 33739, 3145, 11628,
                                                  2653, 642, 1079)),
                "blank": _by_label(CHEXPERT, (201033, 178575, 177211, 105636, 211470, 137458, 152792, 195806, 154971,
                                              144480, 90203, 216922, 211220, 100197)),
            },
        ),
        "valid": PartCounts(
            images=234, studies=200, patients=200,
            labels=_positive(CHEXPERT, (38, 109, 68, 126, 1, 45, 33, 8, 80, 8, 67, 1, 0, 107)),
        ),
        "test": PartCounts(
            images=668, studies=500, patients=500, by_study=True, separate=True,
            labels=_positive(CHEXPERT, (62, 253, 151, 264, 8, 78, 29, 11, 153, 9, 104, 4, 5, 261)),
        ),
    },
    facts={
        "train, frontal": 191_027, "train, lateral": 32_387, "train, sex unknown": 1, "train, age 0 (unknown)": 3,
        "valid, frontal": 202, "valid, lateral": 32,
    },
)  # fmt: skip

_MIMIC_CXR = SiteCounts(
    parts={
        "train": PartCounts(
            images=368_960, studies=222_758, patients=64_586, by_study=True, at_least=True,
            labels=_positive(CHEXPERT, (74019, 6798, 38002, 49512, 5939, 25549, 10199, 15333, 44012, 9159, 51680, 1884,
                                        3675, 63971)),
        ),
        "validate": PartCounts(images=2_991, studies=1_808, patients=500, by_study=True),
        "test": PartCounts(images=5_159, studies=3_269, patients=293, by_study=True),
        "all": PartCounts(images=377_110, studies=227_835, patients=65_379, by_study=True),
    },
    facts={"labelled studies": 227_827},
)  # fmt: skip

_TISSUE = tuple(f"colorectal_tissue/{name}" for name in COLORECTAL_TISSUE)
_GRADES = tuple(f"diabetic_retinopathy/{name}" for name in DIABETIC_RETINOPATHY)
_PUBLISHED = {
    "chexpert": _CHEXPERT,
    "mimic_cxr": _MIMIC_CXR,
    "pathmnist": SiteCounts(
        parts={
            "train": PartCounts(
                images=89_996,
                labels=_positive(_TISSUE, (9366, 9509, 10360, 10401, 8006, 12182, 7886, 9401, 12885)),
            ),
            "validation": PartCounts(
                images=10_004, labels=_positive(_TISSUE, (1041, 1057, 1152, 1156, 890, 1354, 877, 1045, 1432))
            ),
            "test": PartCounts(
                images=7_180, labels=_positive(_TISSUE, (1338, 847, 339, 634, 1035, 592, 741, 421, 1233))
            ),
        }
    ),
    "retinamnist": SiteCounts(
        parts={
            "train": PartCounts(images=1_080, labels=_positive(_GRADES, (486, 128, 206, 194, 66))),
            "validation": PartCounts(images=120, labels=_positive(_GRADES, (54, 12, 28, 20, 6))),
            "test": PartCounts(images=400, labels=_positive(_GRADES, (174, 46, 92, 68, 20))),
        }
    ),
}
