"""Each rule about a request: the code it is refused with, and the request that passes."""

from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path

import pytest

from client.policy import PolicyRefusalError, SitePolicy
from client.policy.request import check_request, check_rounds, check_upload, check_version
from client.receipts import Receipt
from medvlmoe.model import MedVLMoEConfig
from medvlmoe.model.config import TextConfig, VisionConfig
from strategies import error_codes

MONDAY_NOON = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=9)))


def code_of(call, *arguments) -> int | None:
    try:
        call(*arguments)
    except PolicyRefusalError as refusal:
        return refusal.code
    return None


@pytest.mark.parametrize(("server", "fits"), [("same", True), ("patch", True), ("minor", False), ("", False)])
def test_versions(server: str, fits: bool) -> None:
    major, minor, patch = version("medvlmoe").split(".")[:3]
    told = {
        "same": version("medvlmoe"),
        "patch": f"{major}.{minor}.{patch}9",
        "minor": f"{major}.{minor}9.{patch}",
        "": "",
    }[server]
    assert code_of(check_version, told) == (None if fits else error_codes.OTHER_VERSION)


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({}, None),
        ({"runs": ["trial-*"]}, None),
        ({"runs": ["other-*", "trial-8?"]}, error_codes.RUN_NOT_APPROVED),
        ({"runs": []}, error_codes.RUN_NOT_APPROVED),
        ({"hours": ["Mon 11:00-13:00"]}, None),
        ({"hours": ["Mon 13:00-11:00", "Tue 00:00-24:00"]}, error_codes.OUTSIDE_HOURS),
        ({"differential_privacy_required": True}, error_codes.NO_DIFFERENTIAL_PRIVACY),
        ({"differential_privacy_required": True, "max_epsilon": 3.0}, error_codes.NO_DIFFERENTIAL_PRIVACY),
    ],
)
def test_requests(request_of, policy: dict[str, object], code: int | None) -> None:
    assert code_of(check_request, SitePolicy(**policy), request_of(), MONDAY_NOON) == code  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "codec", "code"),
    [
        ({}, "int8", None),
        ({"codecs": ["int8"]}, "int8", None),
        ({"codecs": ["int8"]}, "float32", error_codes.CODEC_NOT_ALLOWED),
        ({"groups": ["vision", "router", "expert.*", "head"]}, "float32", None),
        ({"groups": ["vision", "router", "expert.*"]}, "float32", error_codes.GROUP_NOT_ALLOWED),
        ({"groups": ["vision", "router", "expert.0", "head"]}, "float32", error_codes.GROUP_NOT_ALLOWED),
    ],
)
def test_uploads(request_of, policy: dict[str, object], codec: str, code: int | None) -> None:
    assert code_of(check_upload, SitePolicy(**policy), request_of(codec)) == code  # type: ignore[arg-type]


def test_files_are_the_sites_own(request_of, tmp_path: Path) -> None:
    weights = tmp_path / "ours" / "vision.safetensors"
    weights.parent.mkdir()
    weights.touch()
    for named in (str(weights), "weights.safetensors", "../biogpt", "~/biogpt"):
        for model in (
            MedVLMoEConfig(vision=VisionConfig(weights=named)),
            MedVLMoEConfig(text=TextConfig(weights=named)),
            MedVLMoEConfig(text=TextConfig(tokenizer=named)),
        ):
            assert code_of(check_request, SitePolicy(), request_of(model=model), MONDAY_NOON) == (
                error_codes.SITE_FILE_NAMED
            )
    opened = SitePolicy(model_files=[str(tmp_path / "ours")])
    model = MedVLMoEConfig(vision=VisionConfig(weights=str(weights)))
    assert code_of(check_request, opened, request_of(model=model), MONDAY_NOON) is None
    sideways = MedVLMoEConfig(vision=VisionConfig(weights=f"{tmp_path}/ours/../theirs.safetensors"))
    assert code_of(check_request, opened, request_of(model=sideways), MONDAY_NOON) is not None
    own = ["model.vision.weights"]  # then the server's path is not looked at
    refused = MedVLMoEConfig(vision=VisionConfig(weights="/theirs"), text=TextConfig(weights="/theirs"))
    assert code_of(check_request, SitePolicy(), request_of(model=refused), MONDAY_NOON, own) is not None
    refused.text.weights = None
    assert code_of(check_request, SitePolicy(), request_of(model=refused), MONDAY_NOON, own) is None
    names = MedVLMoEConfig(vision=VisionConfig(weights="openai"), text=TextConfig(tokenizer="microsoft/biogpt"))
    assert code_of(check_request, SitePolicy(), request_of(model=names), MONDAY_NOON) is None


def receipt(server_round: int, time: datetime, kind: str = "training", run: str = "trial-7f") -> Receipt:
    return Receipt(
        number=1, time=time.astimezone(UTC).isoformat(), kind=kind, flower_run="1", run=run,
        round=server_round, sha256="", previous="",
    )  # fmt: skip


def test_rounds_of_a_run_count_once_each(request_of) -> None:
    before = MONDAY_NOON - timedelta(days=3)
    sent = [receipt(1, before), receipt(1, before), receipt(2, before), receipt(9, before, run="other"),
            receipt(3, before, kind="evaluation")]  # fmt: skip
    policy = SitePolicy(max_rounds_per_run=3)
    assert code_of(check_rounds, policy, request_of(server_round=3), sent, MONDAY_NOON) is None
    sent.append(receipt(3, before))
    assert code_of(check_rounds, policy, request_of(server_round=3), sent, MONDAY_NOON) is None, "repeated"
    assert code_of(check_rounds, policy, request_of(server_round=4), sent, MONDAY_NOON) == error_codes.TOO_MANY_ROUNDS


def test_a_day_is_the_sites_own(request_of) -> None:
    """Local midnight, nine hours before that of UTC."""
    policy = SitePolicy(max_rounds_per_day=2)
    yesterday, today = MONDAY_NOON.replace(hour=0) - timedelta(minutes=1), MONDAY_NOON.replace(hour=0, minute=1)
    assert code_of(check_rounds, policy, request_of(), [receipt(1, yesterday)] * 9, MONDAY_NOON) is None
    assert code_of(check_rounds, policy, request_of(), [receipt(1, today)], MONDAY_NOON) is None
    sent = [receipt(1, today), receipt(1, today, run="other")]
    assert code_of(check_rounds, policy, request_of(), sent, MONDAY_NOON) == error_codes.TOO_MANY_ROUNDS
