"""The site's policy as it is enforced, and the receipts of what has left."""

from datetime import datetime
from math import inf

from client.account import budget_of
from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.policy import PolicyRefusalError, SitePolicy
from client.policy.request import check_hours
from client.privacy import refuse_forgotten
from client.receipts import ReceiptChain
from medvlmoe.configuration import differences, to_mapping
from medvlmoe.privacy.accountant import Accountant


def check_policy(patient: Patient) -> Findings:
    """Which keys differ from their defaults, and those that let no round begin now."""
    policy = patient.site.policy
    changed = differences(to_mapping(SitePolicy()), to_mapping(policy))
    text = ", ".join(f"{key}={value}" for key, (_, value) in changed.items())
    yield ok("policy", text or "defaults: every run, group, codec and metric; only the installed code")
    if not policy.installed_code_only:
        yield warn("policy", "installed_code_only=false: a run may bring its own code", "set it to true")
    try:
        check_hours(policy, datetime.now().astimezone())
    except PolicyRefusalError as refusal:
        yield warn("policy", str(refusal), "no round can begin now")


def check_privacy(patient: Patient) -> Findings:
    """What the site's records have cost so far, what is left, and whether the account is that of what has left."""
    policy = patient.site.policy
    try:
        refuse_forgotten(budget_of(patient.site), ReceiptChain(patient.site.receipts_file).verify().receipts)
    except PolicyRefusalError as refusal:
        yield fail("privacy", str(refusal), "every private round is refused until then (docs/privacy.md)")
    epsilon = Accountant("rdp", budget_of(patient.site).spent()).epsilon(policy.max_delta)
    spent = f"epsilon {epsilon:.3g} of {policy.max_epsilon or inf:g} spent at delta {policy.max_delta:g}"
    if policy.max_epsilon is not None and epsilon >= policy.max_epsilon:
        yield fail("privacy", spent, "every round is refused; raise policy.max_epsilon if the hospital agrees")
    elif epsilon > 0 or policy.differential_privacy_required:
        yield ok("privacy", spent)


def check_receipts(patient: Patient) -> Findings:
    """Whether the chain of receipts holds."""
    verdict = ReceiptChain(patient.site.receipts_file).verify()
    if verdict.fault is not None:
        yield fail("receipts", verdict.fault, "nothing leaves until this is looked into (docs/site-policy.md)")
    else:
        yield ok("receipts", f"{len(verdict.receipts)}, the chain holds")
