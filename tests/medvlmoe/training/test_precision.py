import pytest
import torch

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.training import precision as precision_module
from medvlmoe.training.precision import Precision, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def float16_trainer(make_trainer, **config: object):
    """The CUDA path with only the device replaced: float16 autocast and loss scaling on the CPU."""
    trainer = make_trainer(**config)
    trainer.precision = Precision("float16", "cpu")
    return trainer


def test_auto_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", CUDA) == "float16"
    for has_bfloat16, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision_module, "cpu_has_bfloat16", lambda has=has_bfloat16: has)
        assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("auto", torch.device("mps")) == "float32"


def test_a_format_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs CUDA"):
        resolve_precision("float16", CPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="bfloat16"):
        resolve_precision("bfloat16", CUDA)
    assert resolve_precision("float16", CUDA) == "float16"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_autocast_computes_in_sixteen_bits_and_float32_does_not(name: str) -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with Precision(name, "cpu").autocast():
        assert layer(x).dtype == getattr(torch, name)
    with Precision("float32", "cpu").autocast():
        assert layer(x).dtype == torch.float32


def test_scaled_training_is_unscaled_training(make_trainer, make_dataset) -> None:
    """The scale cancels: float16 training follows float32 training, clipping included."""
    trainers = [
        make(gradient_clip=0.1, dropout=0.0)
        for make in (make_trainer, lambda **config: float16_trainer(make_trainer, **config))
    ]
    losses = [trainer.train_epoch(make_dataset(64), 0).mean_loss for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("name", ["float16", "float32"])
def test_clipping_measures_the_gradient_without_the_scale(name: str) -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    precision, optimizer = Precision(name, "cpu"), torch.optim.SGD([parameter], lr=1.0)
    precision.backward(parameter.square().sum() / 2)  # the gradient is (3, 4), its norm 5
    assert precision.step(optimizer, [parameter], clip=2.5)
    torch.testing.assert_close(parameter.data, torch.tensor([1.5, 2.0]), atol=1e-4, rtol=0)


def test_a_gradient_overflow_leaves_the_step_out_and_lowers_the_scale(make_trainer, make_dataset) -> None:
    trainer = float16_trainer(make_trainer, batch_size=16)
    trainer.precision._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    result = trainer.train_epoch(make_dataset(16), 0)
    assert (result.steps, result.skipped_steps) == (1, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert float(trainer.precision.tensors()["scaler/scale"]) == 2.0**39


def test_a_loss_that_is_never_finite_ends_the_run_in_float16_too(make_trainer, make_dataset) -> None:
    trainer = float16_trainer(make_trainer)
    torch.nn.init.constant_(trainer.model.head.weight, torch.nan)
    with pytest.raises(ConfigError, match="not finite in any step of epoch 3"):
        trainer.train_epoch(make_dataset(16), 3)


def test_the_loss_scale_survives_a_stop(make_trainer, make_dataset) -> None:
    first = float16_trainer(make_trainer)
    first.precision._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    first.train_epoch(make_dataset(40), 0)
    saved = {name: tensor.clone() for name, tensor in first.optimizer_tensors().items()}
    second = float16_trainer(make_trainer)
    second.load_optimizer_tensors(saved)
    for name in ("scaler/scale", "scaler/growth_tracker"):
        assert torch.equal(second.optimizer_tensors()[name], saved[name])
    second.load_optimizer_tensors({})
    assert float(second.optimizer_tensors()["scaler/scale"]) == 2.0**16
    with pytest.raises(CheckpointError, match="growth_tracker"):
        second.load_optimizer_tensors({"scaler/scale": torch.tensor(1.0)})


def test_without_scaling_there_is_no_scaler_state() -> None:
    assert Precision("bfloat16", "cpu").tensors() == {}
    assert not Precision("float32", "cpu").scales_loss
