"""Configuration of the leak audit."""

from dataclasses import dataclass

from medvlmoe.errors import ConfigError

ACTIONS = ("fail", "warn", "skip")


@dataclass(kw_only=True)
class LeakAuditConfig:
    """When a site's text counts as leaking its labels, and what happens then.

    Attributes:
        action: ``fail`` ends the run (in a federation the site refuses to train); ``warn`` goes on and stamps every
            result LEAKY; ``skip`` leaves the audit out, and with it the text-only AUC beside the results.
        threshold: mean AUC of the text-only head above which text leaks. Age, sex and view alone give about 0.60.
        threshold_mimic_cxr: the same for MIMIC-CXR, whose indications name what the examination is to look for.
        threshold_label: AUC of any single label above which text leaks, though the mean of many hides it.
    """

    action: str = "fail"
    threshold: float = 0.65
    threshold_mimic_cxr: float = 0.75
    threshold_label: float = 0.95

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"leak_audit.action={self.action}: use one of {', '.join(ACTIONS)}")
        for key in ("threshold", "threshold_mimic_cxr", "threshold_label"):
            if not 0.5 <= getattr(self, key) <= 1:
                raise ConfigError(f"leak_audit.{key}={getattr(self, key)}: use an AUC from 0.5 (chance) to 1")
