"""``report.html`` of a run, made from the files of its folder and from nothing else."""

from pathlib import Path
from typing import Any

from medvlmoe import stamps
from medvlmoe.analysis.comparison import subsets_of, text_only_cell
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import read_json_lines, write_text
from medvlmoe.run_folder import read_summary

_WIDTH, _HEIGHT = 560, 180


def report(arguments: list[str]) -> int:
    """``medvlmoe report run=FOLDER``: write ``report.html`` into a run's folder."""
    if len(arguments) != 1 or not arguments[0].startswith("run="):
        raise ConfigError("say which run: medvlmoe report run=runs/quickstart")
    print(write_report(Path(arguments[0].removeprefix("run=")).expanduser()))
    return 0


def write_report(folder: Path) -> Path:
    """Write ``report.html``: results by site and mode, validation by round, and which site moved which expert.

    Args:
        folder: a run folder with ``summary.json``.

    Returns:
        The file.

    Raises:
        CheckpointError: the folder has no finished run.
    """
    summary = read_summary(folder)
    rounds = list(read_json_lines(folder / "rounds.jsonl"))
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medvlmoe.analysis", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    modes = {summary["mode"]: summary, **summary.get("compare", {})}
    page = environment.get_template("report.html").render(
        name=folder.name,
        modes=modes,
        sites=sorted(summary["sites"]),
        subsets={site: subsets_of(mode["sites"].get(site) for mode in modes.values()) for site in summary["sites"]},
        counts={site: entry["n"] for site, entry in summary["sites"].items()},
        rounds=rounds,
        curve=_curve([(line["round"] - 1, line["validation_auc_before"]) for line in rounds]),
        experts=_experts(list(read_json_lines(folder / "ledger.jsonl")), rounds),
        stamps=stamps.lines(summary.get("stamps", [])),
        text_only={site: cell for site in summary["sites"] if (cell := text_only_cell(site, modes)) is not None},
        config=_read(folder / "config.yaml"),
    )
    path = folder / "report.html"
    write_text(path, page, key=None)
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; the run folder is not whole") from error


def _curve(points: list[tuple[int, float | None]]) -> dict[str, Any] | None:
    """Polyline of validation AUC by round, in the pixels of the report's drawing."""
    known = [(number, auc) for number, auc in points if auc is not None]
    if len(known) < 2:
        return None
    last = max(number for number, _ in known) or 1
    low, high = min(auc for _, auc in known), max(auc for _, auc in known)
    span = (high - low) or 1.0
    pixels = [(40 + (_WIDTH - 60) * n / last, _HEIGHT - 25 - (_HEIGHT - 45) * (auc - low) / span) for n, auc in known]
    return {
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels),
        "low": f"{low:.3f}",
        "high": f"{high:.3f}",
        "last": last,
        "width": _WIDTH,
        "height": _HEIGHT,
    }


def _experts(ledger: list[dict[str, Any]], rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Share of each site in all samples that each expert was merged with, over the whole run."""
    if not ledger:
        return None
    sites = sorted({site for line in ledger for site in line["sites"]})
    count = 1 + max(line["expert"] for line in ledger)
    samples = [dict.fromkeys(sites, 0.0) for _ in range(count)]
    moved_in = [0] * count
    for line in ledger:
        moved_in[line["expert"]] = line["moved_in"]
        for site, part in line["sites"].items():
            samples[line["expert"]][site] += part["samples"]
    rows = []
    for expert, by_site in enumerate(samples):
        total = sum(by_site.values())
        shares = [by_site[site] / total if total else 0.0 for site in sites]
        rows.append({"expert": expert, "samples": int(total), "shares": shares, "moved_in": moved_in[expert]})
    return {"sites": sites, "rows": rows, "rounds": len(rounds)}
