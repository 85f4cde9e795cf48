"""A leak audit as its site reports it: numbers only, and what they say."""

import math
from collections.abc import Mapping
from typing import Any

PASSES, SUSPICIOUS, LEAKS, TOO_FEW = "passes", "suspicious", "leaks", "too few patients"
VERDICTS = (PASSES, SUSPICIOUS, LEAKS, TOO_FEW)


def summary_of_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A site's entries in ``summary.json`` from ``LeakAudit.to_numbers``; empty where there was no audit."""
    known = {
        name.removeprefix("text_only/"): float(value)
        for name, value in numbers.items()
        if name.startswith("text_only/") and isinstance(value, int | float) and math.isfinite(value)
    }
    verdict = known.get("verdict", -1)
    if verdict not in range(len(VERDICTS)):
        return {}

    def interval(name: str) -> list[float] | None:
        low, high = known.get(f"{name}_low"), known.get(f"{name}_high")
        return None if low is None or high is None else [low, high]

    return {
        "text_only_auc": known.get("test_auc"),
        "text_only_auc_ci": interval("test_auc"),
        "text_only_labels_averaged": int(known.get("test_labels_averaged", 0)),
        "leak_audit": {
            "verdict": VERDICTS[int(verdict)],
            "auc": known.get("auc"),
            "auc_ci": interval("auc"),
            "labels_averaged": int(known.get("labels_averaged", 0)),
        },
    }


def numbers_leak(numbers: Mapping[str, float]) -> bool:
    """Whether ``LeakAudit.to_numbers`` say that the text leaks."""
    return numbers.get("text_only/verdict") == VERDICTS.index(LEAKS)
