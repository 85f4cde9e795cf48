import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medvlmoe.errors import CheckpointError
from medvlmoe.files import save_tensors
from medvlmoe.training import EpochRecord, FitResult, Trainer
from medvlmoe.training import fit as fit_module
from medvlmoe.training.evaluation import Evaluation
from medvlmoe.training.fit import BEST_CHECKPOINT, LAST_CHECKPOINT


class KilledError(Exception):
    pass


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def without_seconds(history: list[EpochRecord]) -> list[dict]:
    return [vars(record) | {"seconds": 0} for record in history]


def pretend_auc(trainer: Trainer, values: list[float | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the validation AUC take these values, epoch by epoch."""
    left = iter(values)

    def evaluate(dataset: object, *, intervals: bool = True) -> Evaluation:
        return Evaluation(n=1, auc=next(left), auc_ci=None, labels_averaged=1, accuracy=None, quadratic_kappa=None,
                          per_label={}, loss=None)  # fmt: skip

    monkeypatch.setattr(trainer, "evaluate", evaluate)


@pytest.mark.parametrize("on_disk", [False, True])
def test_it_stops_early_and_restores_the_best_epoch(
    make_trainer, make_dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_disk: bool
) -> None:
    trainer, seen = make_trainer(patience=2, total_epochs=10), []
    pretend_auc(trainer, [0.5, 0.7, 0.6, 0.65, 0.9], monkeypatch)
    result = trainer.fit(
        make_dataset(20),
        make_dataset(10),
        on_epoch=lambda record: seen.append(weights(trainer)),
        checkpoint_folder=tmp_path if on_disk else None,
    )
    assert (result.best_epoch, result.best_auc, result.stopped_early, len(result.history)) == (1, 0.7, True, 4)
    assert equal(weights(trainer), seen[1])
    assert not equal(seen[1], seen[3])


@pytest.mark.parametrize("validated", [False, True])
def test_without_a_defined_auc_the_last_weights_stay(
    make_trainer, make_dataset, monkeypatch: pytest.MonkeyPatch, validated: bool
) -> None:
    trainer, seen = make_trainer(patience=1), []
    pretend_auc(trainer, [None] * 4, monkeypatch)
    result = trainer.fit(
        make_dataset(20), make_dataset(5) if validated else None, on_epoch=lambda record: seen.append(weights(trainer))
    )
    assert (result.best_epoch, result.best_auc, len(result.history)) == (None, None, 4)
    assert equal(weights(trainer), seen[-1])


def test_sites_count_equally_in_the_validation_auc(make_trainer, make_dataset) -> None:
    sites = {"large": make_dataset(60, seed=1), "small": make_dataset(15, seed=2)}
    trainer = make_trainer()
    record = trainer.fit(make_dataset(30), sites, epochs=1).history[0]
    areas = [trainer.evaluate(site).auc for site in sites.values()]
    assert record.validation_auc == pytest.approx(sum(areas) / 2)
    assert list(record.validation) == ["large", "small"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("killed_after", [0, 1, 2, 4])
def test_a_killed_run_goes_on_as_if_never_stopped(
    make_trainer, make_dataset, tmp_path: Path, precision: str, killed_after: int
) -> None:
    train, validation = make_dataset(40), make_dataset(40, seed=1)
    whole = make_trainer(total_epochs=5, precision=precision)
    expected = whole.fit(train, validation)

    def kill(record: EpochRecord) -> None:
        if record.epoch == killed_after:
            raise KilledError

    with pytest.raises(KilledError):
        make_trainer(total_epochs=5, precision=precision).fit(
            train, validation, checkpoint_folder=tmp_path, on_epoch=kill
        )
    resumed = make_trainer(total_epochs=5, precision=precision)
    epochs: list[int] = []
    result = resumed.fit(
        train, validation, checkpoint_folder=tmp_path, resume=True, on_epoch=lambda record: epochs.append(record.epoch)
    )
    assert epochs == list(range(killed_after + 1, 5))
    assert equal(weights(resumed), weights(whole))
    assert without_seconds(result.history) == without_seconds(expected.history)
    assert (result.best_epoch, result.best_auc) == (expected.best_epoch, expected.best_auc)


@pytest.mark.parametrize("writes", range(7))
def test_killed_between_any_two_files_it_repeats_at_most_one_epoch(
    make_trainer, make_dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writes: int
) -> None:
    train, areas = make_dataset(30), [0.5, 0.6, 0.7, 0.4]  # three new bests: seven files
    whole = make_trainer()
    pretend_auc(whole, areas, monkeypatch)
    whole.fit(train, train)

    written: list[str] = []

    def save_until_killed(path: Path, tensors: dict, metadata: dict) -> None:
        if len(written) == writes:
            raise KilledError
        written.append(path.name)
        save_tensors(path, tensors, metadata)

    stopped = make_trainer()
    pretend_auc(stopped, areas, monkeypatch)
    monkeypatch.setattr(fit_module, "save_tensors", save_until_killed)
    with pytest.raises(KilledError):
        stopped.fit(train, train, checkpoint_folder=tmp_path)
    monkeypatch.setattr(fit_module, "save_tensors", save_tensors)
    resumed = make_trainer()
    pretend_auc(resumed, areas[written.count(LAST_CHECKPOINT) :], monkeypatch)
    assert resumed.fit(train, train, checkpoint_folder=tmp_path, resume=True).best_epoch == 2
    assert equal(weights(resumed), weights(whole))


def test_resuming_a_finished_run_restores_its_best_weights(make_trainer, make_dataset, tmp_path: Path) -> None:
    train, validation = make_dataset(30), make_dataset(30, seed=1)
    first, second = make_trainer(), make_trainer()
    result = first.fit(train, validation, checkpoint_folder=tmp_path)
    again = second.fit(train, validation, checkpoint_folder=tmp_path, resume=True)
    assert isinstance(again, FitResult)
    assert again.history == result.history
    assert equal(weights(first), weights(second))


def test_resume_without_a_checkpoint_starts_a_run(make_trainer, make_dataset, tmp_path: Path) -> None:
    fresh, resumed = make_trainer(), make_trainer()
    fresh.fit(make_dataset(20), epochs=1)
    resumed.fit(make_dataset(20), epochs=1, checkpoint_folder=tmp_path, resume=True)
    assert equal(weights(fresh), weights(resumed))


def test_a_checkpoint_of_another_run_is_refused(make_trainer, make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(20)
    make_trainer().fit(dataset, epochs=1, checkpoint_folder=tmp_path)
    for options, named in (({"seed": 1}, "seed"), ({"batch_size": 4}, "batch_size"), ({"total_epochs": 9}, "total")):
        with pytest.raises(CheckpointError, match=named):
            make_trainer(**options).fit(dataset, checkpoint_folder=tmp_path, resume=True)
    make_trainer(patience=3, workers=1).fit(dataset, epochs=1, checkpoint_folder=tmp_path, resume=True)


def test_a_torn_checkpoint_is_a_clear_error(make_trainer, make_dataset, tmp_path: Path) -> None:
    make_trainer().fit(make_dataset(20), make_dataset(20), epochs=1, checkpoint_folder=tmp_path)
    for name in (LAST_CHECKPOINT, BEST_CHECKPOINT):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=name):
            make_trainer().fit(make_dataset(20), make_dataset(20), epochs=1, checkpoint_folder=tmp_path, resume=True)
        (tmp_path / name).write_bytes(whole)


def test_quiet_in_logs(make_trainer, make_dataset, capfd, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        make_trainer().fit(make_dataset(20), make_dataset(20), epochs=2)
    assert capfd.readouterr() == ("", "")
    assert [line for line in caplog.messages if line.startswith("epoch")] == caplog.messages
    assert len(caplog.messages) == 2


def test_a_terminal_sees_progress(make_trainer, make_dataset, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer = make_trainer()
    plain = copy.deepcopy(weights(trainer))
    trainer.fit(make_dataset(20), epochs=1)
    assert "epoch 1/1" in capsys.readouterr().err
    assert not equal(plain, weights(trainer))
