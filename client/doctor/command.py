"""The command ``medvlmoe doctor``."""

import re
from collections.abc import Callable
from pathlib import Path

from client.config import read_site_config
from client.doctor.certificate import check_certificate
from client.doctor.data import check_data
from client.doctor.device import check_device
from client.doctor.disk import check_disk
from client.doctor.door import check_door
from client.doctor.finding import FAIL, Finding, Findings, fail, ok, warn
from client.doctor.health import check_health, health_of
from client.doctor.key import check_key
from client.doctor.launcher import check_launcher
from client.doctor.memory import check_memory
from client.doctor.patient import Patient
from client.doctor.policy import check_policy, check_privacy, check_receipts
from client.doctor.ports import check_reach, check_runtime_port, reached
from client.doctor.proxy import check_proxy
from client.doctor.registration import check_registration
from client.doctor.upload import check_upload
from medvlmoe.configuration import compose
from medvlmoe.errors import EXIT_USER_ERROR, UserError
from strategies.run_config import RunConfig

_USAGE = """medvlmoe doctor site.yaml [key=value ...]    examine a site for a run with this configuration, such as
                                             model=small strategy.upload_codec=int8
medvlmoe doctor HOST:PORT                    ask a Flower process for its health (--health-server-address)
Exit code 0 if nothing fails, 2 otherwise."""

_LOCAL: tuple[Callable[[Patient], Findings], ...] = (
    check_policy, check_privacy, check_receipts, check_launcher, check_data, check_device, check_memory, check_disk,
)  # fmt: skip


def doctor(arguments: list[str]) -> int:
    """Examine a site and print what was found; returns the exit code.

    Raises:
        ConfigError: an override is wrong.
    """
    if not arguments or any(argument in ("-h", "--help", "help") for argument in arguments):
        print(_USAGE)
        return 0 if arguments else EXIT_USER_ERROR
    if re.fullmatch(r"\S+:\d+", arguments[0]):
        return _show([health_of(arguments[0])])
    run = compose(RunConfig, arguments[1:])
    try:
        site = read_site_config(Path(arguments[0]).absolute())
    except UserError as error:
        return _show([fail("site.yaml", str(error), "mend the file; nothing else can be looked at before")])
    return _show([ok("site.yaml", f"site '{site.name}'"), *examine(Patient(site, run))])


def examine(patient: Patient) -> list[Finding]:
    """All checks. One that breaks is a finding, and the others go on."""
    findings = [finding for check in _LOCAL for finding in _guarded(check, patient)]
    if patient.site.server is None:
        mend = "set server.address, server.root_certificates and server.key (docs/deployment.md)"
        return [*findings, fail("server", "not set", mend)]
    return [*findings, *_examine_network(patient)]


def _examine_network(patient: Patient) -> list[Finding]:
    key = _guarded(check_key, patient)
    findings = [*key, *_guarded(check_runtime_port, patient), *_guarded(check_health, patient)]
    findings += _guarded(check_proxy, patient)
    for check in (check_reach, check_certificate, check_door):
        found = _guarded(check, patient)
        findings += found
        if not reached(found):
            missed = "registration and speed" if check is check_door else "all beyond"
            return [*findings, warn("not looked at", missed, "mend the line above first")]
    if reached(key):
        findings += _guarded(check_registration, patient)
    return [*findings, *_guarded(check_upload, patient)]


def _guarded(check: Callable[[Patient], Findings], patient: Patient) -> list[Finding]:
    subject = check.__name__.removeprefix("check_").replace("_", " ")
    findings: list[Finding] = []
    try:
        findings.extend(check(patient))
    except UserError as error:
        findings.append(fail(subject, " ".join(str(error).split()), "mend that and run again"))
    except Exception as error:
        findings.append(fail(subject, f"the check broke: {type(error).__name__}: {error}", "please report it"))
    return findings


def _show(findings: list[Finding]) -> int:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.level:<5} {finding.subject:<{width}}  {finding.text}")
        if finding.mend:
            print(f"{'':<5} {'':<{width}}  -> {finding.mend}")
    failed = sum(finding.level == FAIL for finding in findings)
    print(f"{failed} of {len(findings)} checks fail" if failed else "no check fails")
    return EXIT_USER_ERROR if failed else 0
