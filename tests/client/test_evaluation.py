"""What a site answers to an evaluation under record-level privacy: nothing of its records, not even by an error."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import client.resident
from client.config import SiteConfig
from client.policy import SitePolicy
from client.resident import own_label_space
from client.site import evaluate
from medvlmoe.configuration import compose
from medvlmoe.errors import ConfigError
from medvlmoe.model import build_model
from medvlmoe.privacy.config import PrivacyConfig
from strategies.exchange import exchanged_tensors
from strategies.messages import RoundConfig
from strategies.run_config import RunConfig

NAME = "retinamnist"
PRIVATE = PrivacyConfig(mode="record", noise_multiplier=1.0)
RELEASED = PrivacyConfig(mode="record", noise_multiplier=1.0, release_evaluation=True)
Asked = Callable[..., dict[str, object]]


@pytest.fixture
def site(tmp_path: Path, phantom_root: Path) -> SiteConfig:
    client.resident.forget()
    run = compose(RunConfig, [f"data.root={phantom_root}"])
    return SiteConfig(
        name=NAME, dataset=run.data.sites[NAME], data_root=str(phantom_root), folder=str(tmp_path / "site"),
        predictions=str(tmp_path / "predictions"), policy=SitePolicy(),
    )  # fmt: skip


@pytest.fixture
def ask(site: SiteConfig) -> Asked:
    """Have the test split evaluated, by a model whose outputs overflow if so wanted."""
    run = compose(RunConfig, ["model=tiny", "training.bootstrap_resamples=10"])
    space = own_label_space(site)
    model = build_model(run.model, len(space), 0)

    def send(privacy: PrivacyConfig, *, overflows: bool = False) -> dict[str, object]:
        request = RoundConfig(
            run="run", round=1, rounds=1, local_epochs=1, keep_optimizer_state=False, seed=0, model=run.model,
            label_space=space, training=run.training, privacy=privacy, splits=("test",), intervals=False,
        )  # fmt: skip
        tensors = {name: tensor.clone() for name, tensor in exchanged_tensors(model).items()}
        if overflows:
            tensors["head.bias"] = torch.full_like(tensors["head.bias"], torch.inf)
        return evaluate(site, request, tensors)

    return send


def site_log(site: SiteConfig) -> str:
    log = Path(site.folder).with_suffix(".log")
    return log.read_text() if log.exists() else ""


def test_outputs_that_are_not_finite_are_told_to_nobody(site: SiteConfig, ask: Asked) -> None:
    """Which records make a crafted model overflow tells of them, and an error code is not charged here."""
    finite = ask(PRIVATE)
    kept = Path(str(site.predictions)) / f"{NAME}.safetensors"
    assert finite == {"stamp/PHANTOM": 1.0} and kept.exists() and not site_log(site)
    kept.unlink()
    assert ask(PRIVATE, overflows=True) == finite
    assert "outputs are not finite" in site_log(site) and not kept.exists()
    site.policy = SitePolicy(differential_privacy_required=True)
    assert ask(RELEASED, overflows=True) == finite


def test_predictions_that_cannot_be_written_are_told_to_nobody(site: SiteConfig, ask: Asked) -> None:
    Path(str(site.predictions)).write_text("a file where the folder should be")
    assert ask(PRIVATE) == {"stamp/PHANTOM": 1.0}
    assert str(site.predictions) in site_log(site)


@pytest.mark.parametrize("privacy", [PrivacyConfig(), RELEASED])
def test_where_metrics_may_leave_a_failure_is_an_error(ask: Asked, privacy: PrivacyConfig) -> None:
    assert "test/auc" in ask(privacy)
    with pytest.raises(ConfigError, match="not finite"):
        ask(privacy, overflows=True)


@pytest.mark.parametrize(("privacy", "simulated", "may"), [
    (PrivacyConfig(), False, True),
    (PRIVATE, False, False),
    (RELEASED, False, False),
    (PRIVATE, True, True),
])  # fmt: skip
def test_numbers_of_the_leak_audit_have_no_noise(
    site: SiteConfig, ask: Asked, privacy: PrivacyConfig, simulated: bool, may: bool
) -> None:
    """They are of all patients, so ``release_evaluation``, which is of validation and test, does not cover them."""
    site.simulated = simulated
    told = ask(privacy)
    assert any(name.startswith("text_only/") for name in told) == may
    assert told["stamp/PHANTOM"] == 1.0 and ("test/auc" in told) == (privacy is not PRIVATE or simulated)
