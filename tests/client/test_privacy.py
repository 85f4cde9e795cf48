"""A site's account of spent privacy: by data, not by run; asked before a round, written before a reply leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import MetricRecord, RecordDict

from client.account import budget_of, charged
from client.config import SiteConfig, read_site_config
from client.policy import PolicyRefusalError
from client.privacy import RoundPrivacy, begin_round, evaluation_may_leave, noised_counts, open_round, plain_counts
from client.receipts import ReceiptChain
from client.receipts.receipt import describe
from medvlmoe.command_line import run as command_line
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.units import PATIENT, PrivacyUnits
from medvlmoe.training.private_steps import SamplingPlan, planned_noise
from strategies import error_codes
from strategies.messages import RoundConfig

NOISE = PrivacyConfig(mode="record", noise_multiplier=1.0)
RECORDS = PrivacyUnits.images(640)


def release(site: SiteConfig, request: RoundConfig, units: PrivacyUnits = RECORDS) -> RoundPrivacy:
    """A round that is begun and whose reply leaves."""
    begun, attempt = begin_round(site, request, open_round(site, request, units))
    attempt.release()
    return begun


def test_every_run_on_the_data_adds_up(site_of, request_of) -> None:
    site = site_of()
    for run in ("first", "second"):
        request = request_of(run=run, privacy=NOISE).config
        for server_round in (1, 2):
            opened = release(site, replace(request, round=server_round))
    expected = Accountant("rdp", [Mechanism(noise_multiplier=1.0, sampling_rate=32 / 640, steps=80)])
    assert opened.cost.epsilon == pytest.approx(expected.epsilon(1e-5))
    assert opened.cost.steps == 80
    half = Accountant("rdp", [Mechanism(noise_multiplier=1.0, sampling_rate=32 / 640, steps=40)])
    assert opened.cost.epsilon_before == pytest.approx(half.epsilon(1e-5))


def test_opening_a_round_costs_nothing(site_of, request_of) -> None:
    site, request = site_of(), request_of(privacy=NOISE).config
    assert open_round(site, request, RECORDS).cost == open_round(site, request, RECORDS).cost
    assert budget_of(site).spent() == []


def test_a_round_beyond_the_cap_is_refused_before_it_begins(site_of, request_of) -> None:
    request = request_of(privacy=NOISE).config
    first = open_round(site_of(), request, RECORDS).cost.epsilon
    site = site_of(differential_privacy_required=True, max_epsilon=first)
    opened = open_round(site, request, RECORDS)
    release(site, request)
    with pytest.raises(PolicyRefusalError, match="max_epsilon") as refusal:
        open_round(site, request, RECORDS)
    with pytest.raises(PolicyRefusalError, match="max_epsilon"):  # another run came between the look and the beginning
        begin_round(site, request, opened)
    assert refusal.value.code == error_codes.PRIVACY_SPENT
    assert error_codes.is_refusal(error_codes.PRIVACY_SPENT)


def test_a_large_delta_of_the_server_buys_nothing(site_of, request_of) -> None:
    lax = request_of(privacy=PrivacyConfig(mode="record", noise_multiplier=1.0, delta=0.001)).config
    assert (
        open_round(site_of(), lax, RECORDS).cost
        == open_round(site_of(), request_of(privacy=NOISE).config, RECORDS).cost
    )
    assert (
        open_round(site_of(max_delta=0.001), lax, RECORDS).cost.epsilon
        < open_round(site_of(), lax, RECORDS).cost.epsilon
    )
    with pytest.raises(ConfigError, match="publishing one record"):
        open_round(site_of(max_delta=0.5), lax, PrivacyUnits.images(1000))


def test_the_target_is_for_the_whole_run(site_of, request_of) -> None:
    target = PrivacyConfig(mode="record", target_epsilon=3.0, counts_noise=10.0)
    site, request = site_of(), request_of(privacy=target).config
    for server_round in range(1, request.rounds + 1):
        opened = release(site, replace(request, round=server_round))
    assert 2.95 < opened.cost.epsilon <= 3.0


TARGETS = [
    PrivacyConfig(mode="record", target_epsilon=8.0),
    PrivacyConfig(mode="record", target_epsilon=3.0, counts_noise=10.0),
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_that_goes_as_planned_has_one_noise(site_of, request_of, target: PrivacyConfig) -> None:
    """To the last bit; also after a round that was released twice, which the plan does not know."""
    site, request = site_of(), request_of(privacy=target).config
    planned = planned_noise(target, SamplingPlan.of(640, 32), request.rounds, request.rounds)
    for server_round in (1, 2, 2, 3, 4, 5):
        opened = release(site, replace(request, round=server_round))
        assert opened.steps.noise_multiplier == planned


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_resumed_with_more_rounds_keeps_its_target(site_of, request_of, target: PrivacyConfig) -> None:
    site, request = site_of(), request_of(privacy=target).config
    for server_round in range(1, 5):
        opened = release(site, replace(request, round=server_round))
    first = opened.steps.noise_multiplier
    noises = []
    for server_round in range(5, 11):
        opened = release(site, replace(request, round=server_round, rounds=10))
        noises.append(opened.steps.noise_multiplier)
    assert 0.95 * target.target_epsilon < opened.cost.epsilon <= target.target_epsilon
    assert min(noises) > planned_noise(target, SamplingPlan.of(640, 32), 10, 10) > first
    assert max(noises) < 1.01 * min(noises)


@pytest.mark.parametrize("target", TARGETS)
def test_a_finished_run_has_no_target_left_for_more_rounds(site_of, request_of, target: PrivacyConfig) -> None:
    site, request = site_of(), request_of(privacy=target).config
    for server_round in range(1, 6):
        opened = release(site, replace(request, round=server_round))
    with pytest.raises(ConfigError, match=r"earlier rounds have cost epsilon .*use a larger target"):
        open_round(site, replace(request, round=6, rounds=10), RECORDS)
    larger = replace(target, target_epsilon=2 * target.target_epsilon)
    more = open_round(site, replace(request, round=6, rounds=10, privacy=larger), RECORDS)
    assert more.cost.epsilon <= larger.target_epsilon
    another = open_round(site, replace(request, run="another", rounds=10), RECORDS)  # what it spends is its own
    assert another.cost.epsilon > target.target_epsilon and another.cost.epsilon_before == opened.cost.epsilon


def test_a_torn_line_is_not_counted_and_a_damaged_one_stops(site_of, request_of) -> None:
    site, request = site_of(), request_of(privacy=NOISE).config
    opened = release(site, request)
    file = Path(site.folder) / "privacy.jsonl"
    whole = file.read_text()
    file.write_text(whole + whole[:30])  # killed while writing: nothing had left
    assert budget_of(site).spent() == opened.released
    file.write_text(whole.replace('"steps": 20', '"steps": -20'))
    with pytest.raises(CheckpointError, match="damaged"):
        open_round(site, request, RECORDS)


def test_only_a_simulation_repeats_its_noise(site_of, request_of) -> None:
    repeatable = PrivacyConfig(mode="record", noise_multiplier=1.0, repeatable_noise=True)
    site, request = site_of(), request_of(privacy=repeatable).config
    like = torch.zeros(50)

    def draw() -> torch.Tensor:
        return open_round(site, request, RECORDS).steps.randomness.stream(0).normal(like, 1.0)

    assert not torch.equal(draw(), draw())
    site.simulated = True
    assert torch.equal(draw(), draw())


def test_counts_have_noise_of_their_sensitivity_and_are_never_negative(site_of, request_of) -> None:
    privacy = PrivacyConfig(mode="record", noise_multiplier=1.0, counts_noise=3.0)
    opened = open_round(site_of(), request_of(privacy=privacy).config, RECORDS)
    known_Y = torch.tensor([True] * 7 + [False] * 3)
    far = torch.full((4000,), 1e6)
    routed_K, observed_Y = noised_counts(opened, far, torch.full((10,), 500), known_Y, top_k=2, epochs=1, epoch=0)
    assert float((routed_K - 1e6).std()) == pytest.approx(3.0 * 9**0.5, rel=0.06)
    assert (observed_Y[7:] == 0).all() and (observed_Y[:7] != 500).all()
    none_K, none_Y = noised_counts(opened, far * 0, torch.zeros(10), known_Y, top_k=2, epochs=1, epoch=0)
    assert (none_K >= 0).all() and (none_Y >= 0).all() and none_K.any()
    twice_K, _ = noised_counts(opened, far, torch.zeros(10), known_Y, top_k=2, epochs=2, epoch=0)
    assert float(twice_K.mean()) == pytest.approx(2e6, rel=1e-3)


def test_without_counts_the_number_of_records_is_all_that_is_told() -> None:
    routed_K, observed_Y = plain_counts(30, 2, 4, 2, torch.tensor([True, False]))
    assert routed_K.tolist() == [30.0] * 4 and observed_Y.tolist() == [60.0, 0.0]


@pytest.mark.parametrize(
    ("mode", "released", "required", "simulated", "may"),
    [
        ("none", False, False, False, True),
        ("record", False, False, False, False),
        ("record", True, False, False, True),
        ("record", True, True, False, False),
        ("record", False, False, True, True),
    ],
)
def test_metrics_without_noise(site_of, mode: str, released: bool, required: bool, simulated: bool, may: bool) -> None:
    site = site_of(differential_privacy_required=required)
    site.simulated = simulated
    privacy = PrivacyConfig(mode=mode, noise_multiplier=1.0, release_evaluation=released)
    assert evaluation_may_leave(site, privacy) == may


PATIENTS = PrivacyUnits(PATIENT, [[row, row + 320] for row in range(320)])
BY_PATIENT = PrivacyConfig(mode="record", noise_multiplier=1.0, unit="patient")


def test_with_the_patient_as_unit_rate_steps_and_delta_are_those_of_patients(site_of, request_of) -> None:
    cost = open_round(site_of(), request_of(privacy=BY_PATIENT).config, PATIENTS).cost
    assert (cost.sampling_rate, cost.steps, cost.unit) == (0.1, 10, "patient")
    lax = request_of(privacy=replace(BY_PATIENT, delta=0.005)).config
    with pytest.raises(ConfigError, match="320 patients"):
        open_round(site_of(max_delta=0.01), lax, PATIENTS)


def test_one_account_counts_one_unit(site_of, request_of) -> None:
    site, by_image, by_patient = site_of(), request_of(privacy=NOISE).config, request_of(privacy=BY_PATIENT).config
    release(site, by_image)
    assert budget_of(site).unit() == "image"
    with pytest.raises(PolicyRefusalError, match=r"by image.*use privacy.unit=image") as refusal:
        open_round(site, by_patient, PATIENTS)
    assert refusal.value.code == error_codes.PRIVACY_ACCOUNT
    budget_of(site).file.unlink()
    release(site, by_patient, PATIENTS)
    with pytest.raises(PolicyRefusalError, match="by patient"):
        open_round(site, by_image, RECORDS)


def test_an_account_from_before_units_were_told_is_one_of_images(site_of, request_of) -> None:
    site, request = site_of(), request_of(privacy=NOISE).config
    release(site, request)
    file = budget_of(site).file
    spent = budget_of(site).spent()
    *_, line = file.read_text().splitlines(keepends=True)
    keys = {key: value for key, value in json.loads(line).items() if key not in ("unit", "state", "attempt")}
    file.write_text(json.dumps(keys) + "\n")
    assert (budget_of(site).unit(), budget_of(site).spent()) == ("image", spent)


def test_a_site_that_hides_patients_takes_nothing_less(site_of, request_of, caplog: pytest.LogCaptureFixture) -> None:
    by_image, by_patient = request_of(privacy=NOISE).config, request_of(privacy=BY_PATIENT).config
    strict = {"differential_privacy_required": True, "privacy_unit": "patient"}
    for request, reason in ((by_image, "the server asks for privacy.unit=image"), (by_patient, "tell no patients")):
        with pytest.raises(PolicyRefusalError, match=reason) as refusal:
            open_round(site_of(**strict), request, RECORDS)
        assert refusal.value.code == error_codes.NO_DIFFERENTIAL_PRIVACY
    assert open_round(site_of(**strict), by_patient, PATIENTS).cost.by_patient == 1
    assert open_round(site_of(), by_patient, RECORDS).cost.unit == "image"
    assert "the data tell no patients, so privacy.unit is the image" in caplog.text
    with pytest.raises(ConfigError, match="differential_privacy_required=true"):
        site_of(privacy_unit="patient")


def test_a_patients_records_count_as_one(site_of, request_of) -> None:
    units = PrivacyUnits(PATIENT, [[0, 3], [1], [2, 4, 5]])
    shares = units.shares()
    assert shares.tolist() == pytest.approx([1 / 2, 1, 1 / 3, 1 / 2, 1 / 3, 1 / 3])


def left(site: SiteConfig, request: RoundConfig, told: bool = True) -> None:
    """A private round's receipt, as the ClientApp writes it; before receipts held what was charged they did not."""
    content = RecordDict({"metrics": MetricRecord({"round": request.round, "privacy/epsilon": 1.0})})
    opened = open_round(site, request, RECORDS)
    ReceiptChain(site.receipts_file).append(
        describe("training", content, "1", norms={}, codec="float32", run=request.run, server_round=request.round,
                 privacy=charged(opened.released, opened.units.kind) if told else "")
    )  # fmt: skip


@pytest.mark.parametrize("told", [True, False])
def test_a_deleted_account_is_told_by_the_receipts(site_of, request_of, told: bool) -> None:
    site, request = site_of(), request_of(privacy=NOISE).config
    for _ in range(2):
        release(site, request)
        left(site, request, told)
    release(site, request)  # charged, and killed before it left
    spent = open_round(site, request, RECORDS).cost.epsilon
    file = budget_of(site).file
    lines = file.read_text().splitlines(keepends=True)
    for kept, reason in (([], "lacks 2 of 2 private rounds"), (lines[:3], "lacks 1 of 2.*round 1 of trial-7f")):
        file.write_text("".join(kept))
        with pytest.raises(PolicyRefusalError, match=reason) as refusal:
            open_round(site, request, RECORDS)
        assert refusal.value.code == error_codes.PRIVACY_ACCOUNT
    file.unlink()
    with pytest.raises(PolicyRefusalError, match="restore it from a backup"):
        open_round(site, request, RECORDS)
    file.write_text("".join(lines))
    assert open_round(site, request, RECORDS).cost.epsilon == spent


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"noise_multiplier": 1.0', '"noise_multiplier": 9.0'),
        ('"sampling_rate": 0.05', '"sampling_rate": 0.01'),
        ('"steps": 20', '"steps": 2'),
        ('"unit": "image"', '"unit": "patient"'),
        ('"state": "released"', '"state": "pending"'),
        ('"round": 1', '"round": 2'),
    ],
)
def test_an_account_that_was_edited_is_told_by_the_receipts(site_of, request_of, written: str, instead: str) -> None:
    site, request = site_of(), request_of(privacy=NOISE).config
    release(site, request)
    left(site, request)
    file = budget_of(site).file
    whole = file.read_text()
    assert whole.count(written) == (1 if "state" in written else 2)
    file.write_text(whole.replace(written, instead))
    with pytest.raises(PolicyRefusalError, match="or charges them with other numbers") as refusal:
        open_round(site, request, RECORDS)
    assert refusal.value.code == error_codes.PRIVACY_ACCOUNT
    file.write_text(whole)
    assert open_round(site, request, RECORDS).cost.steps == 40


def test_a_new_account_is_begun_by_command_and_told(tmp_path, request_of, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("name: north\nfolder: site\ndataset: {kind: manifest, root: nowhere}\n")
    site, request = read_site_config(path), request_of(privacy=NOISE).config
    release(site, request)
    left(site, request)
    assert command_line(["receipts", "new-account", str(path)]) == 0
    assert "privacy-until-" in capsys.readouterr().out
    assert len(list((tmp_path / "site").glob("privacy-until-*.jsonl"))) == 1, "nothing is thrown away"
    opened = open_round(site, request, RECORDS)
    assert (opened.cost.steps, opened.cost.earlier_accounts) == (20, 1)
    release(site, request)
    left(site, request)
    budget_of(site).file.unlink()
    with pytest.raises(PolicyRefusalError, match="lacks 1 of 1"):
        open_round(site, request, RECORDS)
    assert command_line(["receipts", "verify", str(path)]) == 0
    assert command_line(["receipts", "new-account", str(site.receipts_file)]) == 2
