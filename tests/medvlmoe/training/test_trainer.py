import json

import pytest
import torch
from torch import Tensor

from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError, DataError
from medvlmoe.training import Evaluation, Trainer
from medvlmoe.training.evaluation import evaluate_scores
from medvlmoe.training.losses import count_known, label_loss


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def optimizer_state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.optimizer_tensors().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_new_trainer_every_epoch_changes_no_bit(make_trainer, make_dataset, precision: str, batch_norm: bool) -> None:
    dataset, options = make_dataset(50), {"precision": precision, "batch_norm": batch_norm}
    whole = make_trainer(**options)
    whole_losses = [whole.train_epoch(dataset, epoch).mean_loss for epoch in range(4)]
    model, state, losses = weights(make_trainer(**options)), {}, []
    for epoch in range(4):
        part = make_trainer(**options)
        part.model.load_state_dict(model)
        part.load_optimizer_tensors(state)
        torch.rand(epoch)  # the outer random stream must not matter
        losses.append(part.train_epoch(dataset, epoch).mean_loss)
        model, state = weights(part), optimizer_state(part)
    assert losses == whole_losses
    assert equal(model, weights(whole))
    assert equal(state, optimizer_state(whole))


def test_optimizer_state_matters_to_that_equality(make_trainer, make_dataset) -> None:
    kept, lost = make_trainer(), make_trainer()
    for trainer in (kept, lost):
        trainer.train_epoch(make_dataset(50), 0)
    lost.load_optimizer_tensors({})
    for trainer in (kept, lost):
        trainer.train_epoch(make_dataset(50), 1)
    assert not equal(weights(kept), weights(lost))


def test_evaluation_leaves_training_alone(make_trainer, make_dataset) -> None:
    plain, watched = make_trainer(batch_norm=True), make_trainer(batch_norm=True)
    for epoch in range(2):
        plain.train_epoch(make_dataset(30), epoch)
        watched.evaluate(make_dataset(20, seed=1))
        watched.train_epoch(make_dataset(30), epoch)
        watched.predict(make_dataset(20, seed=1))
    assert equal(weights(plain), weights(watched))
    assert equal(optimizer_state(plain), optimizer_state(watched))


def test_the_callers_random_state_and_modes_are_given_back(make_trainer, make_dataset) -> None:
    trainer = make_trainer()
    trainer.model.train()
    trainer.model.vision.eval()
    modes = {name: module.training for name, module in trainer.model.named_modules()}
    state = torch.get_rng_state()
    trainer.train_epoch(make_dataset(20), 0)
    trainer.evaluate(make_dataset(20))
    assert torch.equal(state, torch.get_rng_state())
    assert {name: module.training for name, module in trainer.model.named_modules()} == modes
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_seed_or_epoch_gives_another_result(make_trainer, make_dataset) -> None:
    results = []
    for seed, epoch in ((0, 0), (0, 0), (1, 0), (0, 1)):
        trainer = make_trainer(seed=seed)
        trainer.train_epoch(make_dataset(30), epoch)
        results.append(weights(trainer))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])
    assert not equal(results[0], results[3])


def test_workers_change_no_bit(make_trainer, make_dataset) -> None:
    alone, helped = make_trainer(), make_trainer(workers=2)
    for trainer in (alone, helped):
        trainer.train_epoch(make_dataset(30), 0)
    assert equal(weights(alone), weights(helped))
    assert alone.evaluate(make_dataset(9)) == helped.evaluate(make_dataset(9))


def test_training_asks_for_its_epoch_and_evaluation_does_not(make_trainer, make_dataset) -> None:
    rows = make_dataset(20)

    class Changing(type(rows)):
        def at_epoch(self, seed: int, epoch: int) -> object:
            asked.append((seed, epoch))
            return make_dataset(20, seed=7)

    asked: list[tuple[int, int]] = []
    dataset = Changing(**vars(rows))
    trainer, other = make_trainer(), make_trainer()
    assert trainer.train_epoch(dataset, 3).mean_loss == other.train_epoch(make_dataset(20, seed=7), 3).mean_loss
    assert asked == [(trainer.seed, 3)]
    assert torch.equal(trainer.predict(dataset), trainer.predict(rows))
    trainer.evaluate(dataset)
    assert len(asked) == 1


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulation_equals_the_whole_batch(make_trainer, make_dataset, parts: int) -> None:
    options = {"dropout": 0.0, "auxiliary": False, "batch_size": 16}
    whole, cut = make_trainer(**options), make_trainer(**options, accumulate=parts)
    # Plain gradient descent: AdamW's division would blow up rounding errors of tiny gradients.
    for trainer in (whole, cut):
        trainer.optimizer.step = lambda trainer=trainer: [  # type: ignore[method-assign]
            parameter.data.sub_(0.1 * parameter.grad)
            for parameter in trainer.model.parameters()
            if parameter.grad is not None
        ]
    losses = [trainer.train_epoch(make_dataset(48), 0).mean_loss for trainer in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, atol=1e-6, rtol=0)


def test_the_loss_of_a_step_is_that_of_its_whole_batch(make_trainer, make_dataset, label_space: LabelSpace) -> None:
    trainer, dataset = make_trainer(dropout=0.0, accumulate=3, ordinal="earth_mover"), make_dataset(8)
    batch = dataset.__getitems__(list(range(8)))
    with torch.no_grad():
        output = trainer.model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
    counts = count_known(batch.labels_BY, label_space)
    expected = float(label_loss(output.logits_BY, batch.labels_BY, label_space, counts, "earth_mover"))
    result = trainer.train_epoch(dataset, 0)
    assert result.mean_loss - result.mean_auxiliary_loss == pytest.approx(expected, abs=1e-6)
    assert result.mean_auxiliary_loss == pytest.approx(float(output.auxiliary_loss), rel=0.2)


def test_an_idle_expert_and_a_frozen_part_keep_every_byte(make_trainer, make_dataset) -> None:
    trainer = make_trainer(weight_decay=0.5)
    before = weights(trainer)
    trainer.train_epoch(make_dataset(40), 0)
    changed = {name for name, tensor in weights(trainer).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("moe.experts.2.")}
    assert not any("experts.2" in name for name in trainer.optimizer_tensors())


def test_clipping_bounds_the_gradient(make_trainer, make_dataset) -> None:
    trainer, norms = make_trainer(gradient_clip=1e-3), []

    def note_norm(done: int, total: int) -> None:
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))

    trainer.train_epoch(make_dataset(30), 0, on_step=note_norm)
    assert len(norms) == 4
    assert all(0 < norm <= 1e-3 * 1.001 for norm in norms)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())  # no memory kept between epochs


def test_an_epoch_reports_what_it_saw(make_trainer, make_dataset) -> None:
    dataset, steps = make_dataset(30), []
    result = make_trainer().train_epoch(dataset, 1, on_step=lambda done, total: steps.append((done, total)))
    assert torch.equal(result.observed_labels_Y, (~dataset.labels_NY.isnan()).sum(dim=0))
    assert (result.samples, result.steps, result.skipped_steps) == (30, 4, 0)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert 0 < result.mean_auxiliary_loss < result.mean_loss
    assert 0 < result.learning_rate_factor < 1


def test_training_learns(make_trainer, make_dataset) -> None:
    trainer = make_trainer(total_epochs=15, dropout=0.0)
    train, test = make_dataset(300, noise=0.2), make_dataset(200, seed=1, noise=0.2)
    before = trainer.evaluate(test)
    losses = [trainer.train_epoch(train, epoch).mean_loss for epoch in range(15)]
    after = trainer.evaluate(test)
    assert losses[-1] < 0.8 * losses[0]
    assert before.auc is not None
    assert after.auc is not None
    assert after.auc > max(0.75, before.auc)
    assert after.quadratic_kappa is not None
    assert after.quadratic_kappa > 0.5


@pytest.mark.parametrize("part", [0, 1])
def test_a_loss_that_is_not_finite_is_a_clear_error(make_trainer, make_dataset, part: int) -> None:
    trainer, dataset = make_trainer(accumulate=2), make_dataset(8)
    dataset.images[4 * part] = torch.inf
    with pytest.raises(ConfigError, match=r"not finite at epoch 2, step 0; lower the learning rate"):
        trainer.train_epoch(dataset, 2)
    with pytest.raises(ConfigError, match="outputs are not finite"):
        trainer.evaluate(dataset)


def test_an_empty_set_cannot_train_but_has_an_evaluation(make_trainer, make_dataset) -> None:
    with pytest.raises(DataError, match="empty"):
        make_trainer().train_epoch(make_dataset(0), 0)
    assert make_trainer().evaluate(make_dataset(0)) == Evaluation(
        n=0, auc=None, auc_ci=None, labels_averaged=0, accuracy=None, quadratic_kappa=None, per_label={}, loss=None
    )


def test_evaluation_is_that_of_the_predictions(make_trainer, make_dataset, label_space: LabelSpace) -> None:
    trainer, dataset = make_trainer(batch_size=7), make_dataset(60)
    evaluation, scores = trainer.evaluate(dataset), trainer.predict(dataset)
    assert scores.shape == (60, len(label_space))
    again = evaluate_scores(
        scores, dataset.labels_NY, dataset.patient_ids, label_space, resamples=0, seed=0, loss=evaluation.loss
    )
    assert again.to_dict() == evaluation.to_dict() | {"auc_ci": None}
    assert evaluation.auc_ci is not None
    assert evaluation.auc is not None
    assert evaluation.auc_ci[0] < evaluation.auc < evaluation.auc_ci[1]
    assert trainer.evaluate(dataset, intervals=False).auc_ci is None
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict() | {"split": "test"}))) == evaluation


def test_only_labels_with_both_classes_count(label_space: LabelSpace) -> None:
    labels = torch.full((4, len(label_space)), torch.nan)
    labels[:, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    labels[:, 1] = 1.0
    scores = torch.rand(4, len(label_space), dtype=torch.float64)
    scores[:, 0] = torch.tensor([0.1, 0.9, 0.2, 0.8])
    evaluation = evaluate_scores(scores, labels, list("abcd"), label_space, resamples=20, seed=0)
    assert (evaluation.auc, evaluation.labels_averaged) == (1.0, 1)
    assert evaluation.per_label == {"Effusion": 1.0, "Mass": None}
    assert evaluation.accuracy is None
    nothing = evaluate_scores(scores, labels * torch.nan, list("abcd"), label_space, resamples=20, seed=0)
    assert (nothing.auc, nothing.auc_ci, nothing.labels_averaged) == (None, None, 0)


def test_an_absent_device_is_a_clear_error(make_model, label_space: LabelSpace) -> None:
    from medvlmoe.training import TrainingConfig

    for device in ("cuda:99", "warp"):
        with pytest.raises(ConfigError, match=device):
            Trainer(make_model(), TrainingConfig(), label_space, seed=0, device=device)
