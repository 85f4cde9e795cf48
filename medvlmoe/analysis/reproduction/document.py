"""A table before it is Markdown, LaTeX, CSV or HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlmoe.analysis.reproduction.entries import Entry
from medvlmoe.analysis.reproduction.footnotes import Footnote
from medvlmoe.analysis.reproduction.paper_values import SHARED
from medvlmoe.analysis.reproduction.results import Results


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Rows of text below a header.

    Attributes:
        title: above it.
        notes: sentences between the title and the rows.
        header: names of the columns; the first is of the rows.
        rows: as long as the header.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A table of the paper with all that belongs to it.

    Attributes:
        name: of the files.
        title: of the whole.
        stamps: of all results in it.
        lead: sentences above the sheets.
        sheets: the paper's own shape first, then the details.
        footnotes: by number, from 1.
        failures: cells that failed, with the reason.
        records: the numbers, for CSV.
    """

    name: str
    title: str
    stamps: list[str]
    lead: list[str]
    sheets: list[Sheet]
    footnotes: list[str]
    failures: list[str]
    records: list[dict[str, Any]]


class Marks:
    """Numbers footnotes in the order in which they are first used."""

    def __init__(self, footnotes: Sequence[Footnote]) -> None:
        self._footnotes = footnotes
        self.texts: list[str] = []

    def of(self, *, kind: str | None = None, model: str | None = None, everywhere: bool = False) -> str:
        """`` [1][3]`` for the footnotes of a data set, of a model, or of the whole table."""
        chosen = [
            note
            for note in self._footnotes
            if (everywhere and note.kind is None and note.model is None)
            or (kind is not None and note.kind == kind)
            or (model is not None and note.model == model.removesuffix(SHARED))
        ]
        return "".join(f" [{self._number(note.text)}]" for note in chosen)

    def _number(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def protocol_words(results: Results) -> str:
    """One sentence on how the models were trained."""
    p = results.protocol
    seeds = ", ".join(map(str, p["seeds"]))
    return (
        f"Preset {results.preset}: model {p['model']} ({p['backbone']}, {p['image_size']} px, weights: vision "
        f"{p['vision_weights']}, text {p['text_weights']}), AdamW {p['encoder_learning_rate']:g} (encoders) / "
        f"{p['head_learning_rate']:g}, weight decay {p['weight_decay']:g}, {p['epochs']} epochs, warm-up "
        f"{p['warmup_epochs']:g}, batch {p['batch_size']}, patience {p['patience']}, precision {p['precision']}, "
        f"augmentation {'on' if p['augment'] else 'off'}; seeds {seeds}."
    )


def baseline_words(results: Results) -> str:
    """One sentence on the baselines' encoders, first stage and text."""
    p = results.protocol
    epochs = p["pretraining_epochs"]
    sentence = f"Baselines: {epochs} epoch{'' if epochs == 1 else 's'} of stage A; "
    if p["baseline_backbone"] != "shared":
        sentence += (
            f"published encoders from weights: image {p['baseline_image_weights']}, text {p['baseline_text_weights']}; "
        )
    if p["text_at_test"] == "concat":
        return sentence + "all read the text at test time."
    return sentence + "all but BioBERT-VQA see the image alone at test time, as published."


def number(value: float | None, digits: int = 1) -> str:
    """A number with a real minus sign; a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference, always with its sign."""
    return "-" if value is None else f"{value:+.1f}".replace("-", "−")


def ours(entry: Entry) -> str:
    """``81.3 ± 0.6 (n = 3)``."""
    if entry.auc is None:
        return "failed" if entry.failed and not entry.seeds else "undefined"
    half = "" if entry.half_width is None else f" ± {number(entry.half_width)}"
    return f"{number(entry.auc)}{half} (n = {len(entry.seeds)})"


def interval(bounds: Sequence[float] | None) -> str:
    """``[79.0, 83.4]``."""
    return "-" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def p_value(value: float) -> str:
    """Two digits; very small ones as a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: float | None) -> str:
    """``668.9 M`` for numbers of parameters and operations."""
    if value is None:
        return "-"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.0f}"


def data_words(entry: Entry) -> str:
    """What a data set's results are of: images, labels, policies."""
    parts = []
    if entry.images is not None:
        parts.append(f"{entry.images:,} test images")
    if entry.labels_averaged is not None:
        parts.append(f"mean over {entry.labels_averaged[0]} of {entry.labels_averaged[1]} labels")
    parts += [f"{key} {value}" for key, value in entry.policies.items()]
    if entry.text_only is not None:
        parts.append(f"text alone {number(entry.text_only)} %")
    return "; ".join(parts) + "." if parts else ""


def failures(entries: Sequence[Entry]) -> list[str]:
    """A line for each cell that failed."""
    return [
        f"{entry.dataset}, {entry.title}, seed {seed}: {reason}"
        for entry in entries
        for seed, reason in entry.failed.items()
    ]


def record(entry: Entry) -> dict[str, Any]:
    """All numbers of an entry, flat; per cent except p-values, counts and costs."""
    test = entry.comparison.test if entry.comparison is not None else {}
    low, high = entry.patients or (None, None)
    return {
        "dataset": entry.dataset,
        "kind": entry.kind,
        "model": entry.model,
        "title": entry.title,
        "auc": entry.auc,
        "t_half_width": entry.half_width,
        "seeds": " ".join(map(str, entry.seeds)),
        "n_seeds": len(entry.seeds),
        "patients_low": low,
        "patients_high": high,
        "test_images": entry.images,
        "labels_averaged": None if entry.labels_averaged is None else entry.labels_averaged[0],
        "labels": None if entry.labels_averaged is None else entry.labels_averaged[1],
        "paper": None if entry.paper is None else entry.paper.auc,
        "paper_plus_minus": None if entry.paper is None else entry.paper.plus_minus,
        "ours_minus_paper": entry.minus_paper,
        "anchor": None if entry.anchor is None else entry.anchor.auc,
        "anchor_system": None if entry.anchor is None else entry.anchor.system,
        "anchor_source": None if entry.anchor is None else entry.anchor.source,
        "medvlmoe_minus_it": _per_cent(test.get("difference")),
        "difference_low": _per_cent(test.get("low")),
        "difference_high": _per_cent(test.get("high")),
        "difference_bootstrap_low": _per_cent(test.get("bootstrap_low")),
        "difference_bootstrap_high": _per_cent(test.get("bootstrap_high")),
        "difference_seeds_half_width": _per_cent(test.get("seeds_half_width")),
        "p_value": test.get("p_value"),
        "p_holm": None if entry.comparison is None else entry.comparison.p_adjusted,
        "comparisons": None if entry.comparison is None else entry.comparison.family,
        "parameters": entry.cost.get("parameters"),
        "active_parameters": entry.cost.get("active"),
        "flops_per_sample": entry.cost.get("flops"),
        "text_only_auc": entry.text_only,
        "stamps": " ".join(entry.stamps),
        "policies": "; ".join(f"{key}={value}" for key, value in entry.policies.items()),
        "failed": "; ".join(f"seed {seed}: {reason}" for seed, reason in entry.failed.items()),
    }


def _per_cent(value: float | None) -> float | None:
    return None if value is None else 100 * value
