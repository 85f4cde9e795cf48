"""What a round costs by how it ends, and what is left of it at the site."""

from pathlib import Path

import pytest
import torch

from client.account import budget_of
from client.departure import Departure
from client.policy import PolicyRefusalError
from client.privacy import begin_round, open_round
from client.state import RoundTensors
from medvlmoe.errors import CheckpointError, ConfigError, LocalProcessError
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.units import PrivacyUnits
from strategies import error_codes

NOISE = PrivacyConfig(mode="record", noise_multiplier=1.0)
RECORDS = PrivacyUnits.images(640)


@pytest.fixture
def round_of(site_of, request_of):
    """Run a private round that ends with an error, or leaves."""
    site = site_of()

    def run(error: BaseException | None, server_round: int = 1) -> None:
        request = request_of(privacy=NOISE, server_round=server_round).config
        states = RoundTensors(Path(site.folder), request.run, "optimizer")
        with Departure() as departure:
            _, attempt = begin_round(site, request, open_round(site, request, RECORDS))
            departure.pend(attempt)
            departure.stage(states.stage(server_round, {"a": torch.full((2,), float(server_round))}))
            if error is not None:
                raise error
            departure.leave()

    run.site = site  # type: ignore[attr-defined]
    return run


def kept(site) -> dict[str, torch.Tensor]:
    return dict(RoundTensors(Path(site.folder), "trial-7f", "optimizer").before(99))


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(1), CheckpointError("the disk is full")],
    ids=lambda error: type(error).__name__,
)
def test_what_an_interruption_or_the_disk_ended_costs_nothing(round_of, error: BaseException) -> None:
    round_of(None, 1)
    spent = budget_of(round_of.site).spent()
    with pytest.raises(type(error)):
        round_of(error, 2)
    assert budget_of(round_of.site).spent() == spent
    assert kept(round_of.site)["a"].tolist() == [1.0, 1.0], "what was trained and did not leave shapes nothing"
    round_of(None, 2)
    assert len(budget_of(round_of.site).spent()) == 2 and kept(round_of.site)["a"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("a record's gradient is not finite"),
        PolicyRefusalError(error_codes.UPDATE_TOO_LARGE, "large"),
        ValueError("who knows"),
        MemoryError(),
        LocalProcessError("gone"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_the_records_may_have_a_part_in_is_charged(round_of, error: Exception) -> None:
    """Its code leaves, and a server could ask for it without end."""
    with pytest.raises(type(error)):
        round_of(error)
    assert len(budget_of(round_of.site).spent()) == 1
    assert kept(round_of.site) == {}


def test_the_release_is_on_the_disk_before_anything_of_it_is_kept(round_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.state.move_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        round_of(None)
    assert len(budget_of(round_of.site).spent()) == 1 and kept(round_of.site) == {}


def test_without_the_line_of_the_release_nothing_leaves(round_of, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.account import append_json_line

    def full(path: Path, value: dict, **where: object) -> None:
        if value["state"] == "released":
            raise CheckpointError("no space left")
        append_json_line(path, value, **where)  # type: ignore[arg-type]

    monkeypatch.setattr("client.account.append_json_line", full)
    with pytest.raises(CheckpointError, match="no space left"):
        round_of(None)
    assert budget_of(round_of.site).spent() == [] and kept(round_of.site) == {}


def test_what_a_killed_process_has_staged_is_deleted_and_never_read(round_of) -> None:
    states = RoundTensors(Path(round_of.site.folder), "trial-7f", "optimizer")
    killed = states.stage(1, {"a": torch.ones(2)})
    assert kept(round_of.site) == {}
    round_of(None, 2)
    assert not killed.file.exists() and kept(round_of.site)["a"].tolist() == [2.0, 2.0]
    with pytest.raises(CheckpointError):
        killed.keep()
