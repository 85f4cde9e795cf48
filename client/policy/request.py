"""What a site's policy says about a request, before any data is touched."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from client.policy.config import SitePolicy
from client.policy.hours import Hours
from client.policy.refusal import PolicyRefusalError
from client.receipts.receipt import Receipt
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.groups import parameter_group
from strategies import error_codes
from strategies.messages import InvalidMessageError, Request


def check_version(server: str) -> None:
    """The server must run the same major and minor version as the site.

    Between patch releases neither messages nor arithmetic change, so a site need not install each of them.

    Raises:
        PolicyRefusalError: it runs another one.
    """
    here = version("medvlmoe")
    if server.split(".")[:2] != here.split(".")[:2]:
        raise PolicyRefusalError(
            error_codes.OTHER_VERSION, f"the server runs version {server!r}, this site {here}; use the same on both"
        )


def check_hours(policy: SitePolicy, now: datetime) -> None:
    """A round may begin now. One that began in time may end later.

    Raises:
        PolicyRefusalError: it may not.
    """
    if policy.hours and not any(Hours.parse(window).contains(now) for window in policy.hours):
        raise PolicyRefusalError(
            error_codes.OUTSIDE_HOURS, f"{now:%a %H:%M} is not in policy.hours {', '.join(policy.hours)}"
        )


def check_request(policy: SitePolicy, request: Request, now: datetime, own_files: Iterable[str] = ()) -> None:
    """Everything that a request tells by itself.

    Args:
        policy: the site's policy.
        request: the request.
        now: the time here.
        own_files: keys of the model for which the site names files of its own; the server's are not looked at.

    Raises:
        PolicyRefusalError: the policy forbids it.
        InvalidMessageError: a parameter belongs to no group.
    """
    check_version(request.version)
    check_hours(policy, now)
    if not _matches(request.config.run, policy.runs):
        raise PolicyRefusalError(
            error_codes.RUN_NOT_APPROVED, f"run '{request.config.run}' is not in policy.runs {policy.runs}"
        )
    if policy.differential_privacy_required and not request.config.privacy.covers_records:
        raise PolicyRefusalError(
            error_codes.NO_DIFFERENTIAL_PRIVACY,
            f"policy.differential_privacy_required, and the server asks for privacy.mode={request.config.privacy.mode}",
        )
    _check_files(policy, request.config.model, set(own_files))


def check_upload(policy: SitePolicy, request: Request) -> None:
    """The parameters that a training request wants back, and their number format.

    Raises:
        PolicyRefusalError: the policy lets them not out.
        InvalidMessageError: a parameter belongs to no group.
    """
    if request.reply_codec not in policy.codecs:
        raise PolicyRefusalError(
            error_codes.CODEC_NOT_ALLOWED, f"codec {request.reply_codec} is not in policy.codecs {policy.codecs}"
        )
    kept = {group for group in _groups(request.tensors) if not _matches(group, policy.groups)}
    if kept:
        raise PolicyRefusalError(
            error_codes.GROUP_NOT_ALLOWED, f"the server wants {', '.join(sorted(kept))}; policy.groups {policy.groups}"
        )


def check_rounds(policy: SitePolicy, request: Request, receipts: Sequence[Receipt], now: datetime) -> None:
    """How often the site has answered already, told by its receipts.

    A round that is repeated counts once for the run and each time for the day.

    Raises:
        PolicyRefusalError: often enough.
    """
    sent = [receipt for receipt in receipts if receipt.kind == "training"]
    rounds = {receipt.round for receipt in sent if receipt.run == request.config.run} | {request.config.round}
    today = [receipt for receipt in sent if receipt.moment.astimezone(now.tzinfo).date() == now.date()]
    for limit, count, what in (
        (policy.max_rounds_per_run, len(rounds), "run"),
        (policy.max_rounds_per_day, len(today) + 1, "day"),
    ):
        if limit is not None and count > limit:
            raise PolicyRefusalError(
                error_codes.TOO_MANY_ROUNDS, f"policy.max_rounds_per_{what}={limit}: this would be number {count}"
            )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _groups(names: Iterable[str]) -> set[str]:
    try:
        return {parameter_group(name) for name in names}
    except ValueError as error:
        raise InvalidMessageError(str(error)) from error


def _check_files(policy: SitePolicy, model: MedVLMoEConfig, own_files: set[str]) -> None:
    """A server must not choose files of the site: a model is described by names, unless the site opens a folder."""
    allowed = [Path(folder).expanduser().resolve() for folder in policy.model_files]
    named = {
        "model.vision.weights": model.vision.weights,
        "model.text.weights": model.text.weights,
        "model.text.tokenizer": model.text.tokenizer,
    }
    for key, value in named.items():
        if value is None or key in own_files or not _is_file(value):
            continue
        if not any(Path(value).expanduser().resolve().is_relative_to(folder) for folder in allowed):
            raise PolicyRefusalError(
                error_codes.SITE_FILE_NAMED, f"the server set {key}={value}, which is not in policy.model_files"
            )


def _is_file(value: str) -> bool:
    path = Path(value).expanduser()
    return path.is_absolute() or ".." in path.parts or value.endswith(".safetensors") or path.exists()
