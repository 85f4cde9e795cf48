import torch

from medvlmoe.data.known_labels import CHESTXRAY14, CHEXPERT, CHEXPERT_COMPETITION
from medvlmoe.data.labels import LabelSpace
from medvlmoe.training.evaluation import Evaluation, evaluate_scores

COMPETITION = "chexpert competition 5"
UNION = LabelSpace.union([LabelSpace.known(name) for name in ("chestxray14", "chexpert", "colorectal_tissue")])


def evaluated(known: tuple[str, ...], one_class: str | None = None) -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, len(UNION), generator=generator, dtype=torch.float64)
    labels = torch.full((60, len(UNION)), torch.nan)
    for label in known:
        labels[:, UNION.labels.index(label)] = torch.randint(0, 2, (60,), generator=generator).float()
    if one_class is not None:
        labels[:, UNION.labels.index(one_class)] = 0
    patients = [str(row) for row in range(60)]
    return evaluate_scores(scores, labels, patients, UNION, resamples=0, seed=0)


def test_the_mean_of_the_competition_labels_is_that_of_their_areas() -> None:
    found = evaluated(CHEXPERT)
    expected = sum(found.per_label[label] for label in CHEXPERT_COMPETITION) / 5  # type: ignore[misc]
    assert found.subset_auc == {COMPETITION: {"auc": expected, "labels_averaged": 5}}
    assert found.labels_averaged == 14
    assert abs(found.subset_auc[COMPETITION]["auc"] - found.auc) > 1e-3  # type: ignore[operator]


def test_a_label_of_one_class_is_left_out_and_told() -> None:
    found = evaluated(CHEXPERT, one_class="Edema")
    rest = [found.per_label[label] for label in CHEXPERT_COMPETITION if label != "Edema"]
    assert found.subset_auc[COMPETITION] == {"auc": sum(rest) / 4, "labels_averaged": 4}  # type: ignore[arg-type]


def test_other_sites_have_no_such_mean_although_they_know_the_five_labels() -> None:
    assert set(CHEXPERT_COMPETITION) < set(CHESTXRAY14)
    assert evaluated(CHESTXRAY14).subset_auc == {}


def test_it_survives_json_and_older_files_have_none() -> None:
    found = evaluated(CHEXPERT)
    assert Evaluation.from_dict(found.to_dict()) == found
    older = {key: value for key, value in found.to_dict().items() if key != "subset_auc"}
    assert Evaluation.from_dict(older).subset_auc == {}
