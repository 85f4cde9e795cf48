"""``medvlmoe table``: one table from the runs of several seeds, with intervals over the seeds."""

import math
from pathlib import Path
from typing import Any

from medvlmoe import stamps
from medvlmoe.analysis.comparison import TEXT_ONLY, markdown, marked, print_table, subsets_of
from medvlmoe.errors import ConfigError
from medvlmoe.run_folder import read_summary


def table(arguments: list[str]) -> int:
    """``medvlmoe table RUN [RUN …]``: mean test AUC by site and mode over runs that differ in their seed only."""
    if not arguments or any(argument.startswith("-") for argument in arguments):
        raise ConfigError("say which runs: medvlmoe table runs/real-seed0 runs/real-seed1 runs/real-seed2")
    summaries = [read_summary(Path(folder).expanduser()) for folder in arguments]
    rows = rows_over_seeds(summaries)
    stamped = stamps.in_order(stamp for summary in summaries for stamp in summary.get("stamps", []))
    print_table(rows, f"Test AUC: mean over {len(arguments)} seeds, 95 % t-interval over the seeds", stamped)
    print(markdown(rows, stamped))
    return 0


def rows_over_seeds(summaries: list[dict[str, Any]]) -> list[list[str]]:
    """Header and rows: each site's mean AUC and interval by mode.

    Args:
        summaries: one ``summary.json`` a seed, all with the same modes and sites.

    Raises:
        ConfigError: two runs have the same seed, or other modes or sites.
    """
    by_seed = [{entry["mode"]: entry, **entry.get("compare", {})} for entry in summaries]
    seeds = [entry["seed"] for entry in summaries]
    if len(set(seeds)) < len(seeds):
        listed = ", ".join(map(str, sorted(seeds)))
        raise ConfigError(f"two of the runs have the same seed ({listed}); name each seed's run once")
    modes, sites = list(by_seed[0]), sorted(summaries[0]["sites"])
    for entry in by_seed[1:]:
        if set(entry) != set(modes) or any(sorted(entry[mode]["sites"]) != sites for mode in modes):
            raise ConfigError("the runs differ in their modes or sites; compare runs that differ in their seed only")
    text_only = {
        site: _text_only([entry[mode]["sites"][site] for entry in by_seed for mode in modes]) for site in sites
    }
    audited = any(text_only.values())
    rows = [["site", "test images", *([TEXT_ONLY] if audited else []), *(f"{mode} AUC" for mode in modes)]]
    blank = [""] * (2 if audited else 1)
    for site in sites:
        counts = {entry[mode]["sites"][site]["n"] for entry in by_seed for mode in modes}
        cells = [_site_cell([entry[mode]["sites"][site] for entry in by_seed]) for mode in modes]
        beside = [text_only[site] or "-"] if audited else []
        rows.append([site, "/".join(map(str, sorted(counts))), *beside, *cells])
        for subset in subsets_of(entry[mode]["sites"][site] for entry in by_seed for mode in modes):
            rows.append([f"{site}: {subset}", *blank, *(_subset_cell(by_seed, mode, site, subset) for mode in modes)])
    rows.append(["mean of sites", *blank, *(_mean_cell([entry[mode] for entry in by_seed]) for mode in modes)])
    return rows


def t_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % interval of the mean by Student's t; infinite for a single value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.inf
    from scipy.stats import t as student_t  # a second to import

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, float(student_t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)


def _subset_cell(by_seed: list[dict[str, Any]], mode: str, site: str, subset: str) -> str:
    entries = [entry[mode]["sites"][site] for entry in by_seed]
    return marked(_cell([entry.get("subset_auc", {}).get(subset, {}).get("auc") for entry in entries]), entries)


def _site_cell(entries: list[dict[str, Any]]) -> str:
    return marked(_cell([entry["auc"] for entry in entries]), entries)


def _mean_cell(summaries: list[dict[str, Any]]) -> str:
    return marked(_cell([summary["mean_auc"] for summary in summaries]), summaries)


def _text_only(entries: list[dict[str, Any]]) -> str | None:
    """AUC of the text alone, which does not depend on the seed; ``None`` without an audit."""
    known = [entry["text_only_auc"] for entry in entries if entry.get("text_only_auc") is not None]
    return f"{math.fsum(known) / len(known):.3f}" if known else None


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "undefined"
    mean, half_width = t_interval(known)
    return f"{mean:.3f}" + (f" ± {half_width:.3f}" if math.isfinite(half_width) else "")
