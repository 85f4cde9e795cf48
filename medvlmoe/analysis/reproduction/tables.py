"""The paper's Table 1 and Table 2 with our numbers, theirs, and published ones."""

from collections.abc import Sequence

from medvlmoe import stamps
from medvlmoe.analysis.reproduction import document as words
from medvlmoe.analysis.reproduction.anchors import ANCHORS
from medvlmoe.analysis.reproduction.document import Document, Marks, Sheet
from medvlmoe.analysis.reproduction.entries import Entry, entries_of
from medvlmoe.analysis.reproduction.footnotes import table1_footnotes, table2_footnotes
from medvlmoe.analysis.reproduction.paper_values import BENCHMARKS, TABLE2
from medvlmoe.analysis.reproduction.results import Results
from medvlmoe.model.ablations import ABLATIONS, FULL

_OURS = (
    "Ours: test AUC in per cent, mean over seeds ± half of its 95 % t-interval; in brackets the 95 % bootstrap "
    "interval over patients of that mean."
)
_NO_TARGET = (
    "The paper's values are no target: they are printed beside ours with the difference, and published results with "
    "their source beside both."
)
_STAMPED = "On stamped data a difference from the paper or from a published result says nothing about either."


def table1(results: Results, pairs: Sequence[tuple[str, str]]) -> Document:
    """Table 1: every model on every data set.

    Args:
        results: from ``results.json``.
        pairs: (data set, model), in the table's order.
    """
    entries = entries_of(results, "table1", pairs)
    marks = Marks(table1_footnotes())
    datasets, models = _names(entries)
    summary = _summary(entries, datasets, models, marks)
    details = [_details(dataset, [e for e in entries if e.dataset == dataset], marks) for dataset in datasets]
    return Document(
        name="table1",
        title="Table 1: diagnostic AUC of MedVLMoE and five baselines",
        stamps=_stamps(entries),
        lead=[
            _OURS,
            _NO_TARGET,
            *_if_stamped(entries),
            words.protocol_words(results),
            words.baseline_words(results),
            *_tests(entries),
        ],
        sheets=[summary, *details, _anchor_sheet({entry.kind for entry in entries})],
        footnotes=marks.texts,
        failures=words.failures(entries),
        records=[words.record(entry) for entry in entries],
    )


def table2(results: Results, pairs: Sequence[tuple[str, str]]) -> Document:
    """Table 2: the ablations, with what each costs.

    Args:
        results: from ``results.json``.
        pairs: (data set, model), in the table's order.
    """
    entries = entries_of(results, "table2", pairs)
    marks = Marks(table2_footnotes())
    datasets, _ = _names(entries)
    sheets = [_ablations(dataset, [e for e in entries if e.dataset == dataset], marks) for dataset in datasets]
    names = [entry.model for entry in entries if entry.model in ABLATIONS]
    meanings = [[ABLATIONS[name].title, ABLATIONS[name].meaning] for name in dict.fromkeys(names)]
    return Document(
        name="table2",
        title="Table 2: ablations",
        stamps=_stamps(entries),
        lead=[
            _OURS,
            _NO_TARGET,
            *_if_stamped(entries),
            words.protocol_words(results),
            *_tests(entries),
            "Active: parameters that a sample uses, of the experts only those that it is sent to. FLOPs: of the "
            "forward pass of one sample, a multiplication and an addition are two.",
        ],
        sheets=[*sheets, Sheet(title="What each variant is", header=["variant", "difference"], rows=meanings)],
        footnotes=marks.texts,
        failures=words.failures(entries),
        records=[words.record(entry) for entry in entries],
    )


def _summary(entries: Sequence[Entry], datasets: list[str], models: list[str], marks: Marks) -> Sheet:
    by_pair = {(entry.dataset, entry.model): entry for entry in entries}
    header, rows = ["model"], []
    for dataset in datasets:
        entry = next(entry for entry in entries if entry.dataset == dataset)
        stamped = stamps.in_order(stamp for e in entries if e.dataset == dataset for stamp in e.stamps)
        header.append(" ".join([dataset, *stamped]) + marks.of(kind=entry.kind))
    for model in models:
        row = [by_pair.get((dataset, model)) for dataset in datasets]
        title = next(entry.title for entry in row if entry is not None) + marks.of(model=model)
        rows.append([title, *("-" if e is None else f"{words.ours(e)} {words.interval(e.patients)}" for e in row)])
        if any(entry is not None and entry.paper is not None for entry in row):
            rows.append(["– the paper", *("-" if e is None or e.paper is None else str(e.paper) for e in row)])
    everywhere = marks.of(everywhere=True)
    return Sheet(title=f"Ours and the paper's{everywhere}", header=header, rows=rows)


def _details(dataset: str, entries: Sequence[Entry], marks: Marks) -> Sheet:
    rows = []
    for entry in entries:
        difference, p_holm, over_seeds = _difference(entry)
        anchor = "-" if entry.anchor is None else f"{entry.anchor.auc:.4g} ({entry.anchor.system})"
        rows.append(
            [
                entry.title + marks.of(model=entry.model),
                words.ours(entry),
                words.interval(entry.patients),
                "-" if entry.paper is None else str(entry.paper),
                words.signed(entry.minus_paper),
                anchor,
                difference,
                p_holm,
                over_seeds,
                " ".join(entry.stamps) or "-",
            ]
        )
    first = entries[0]
    named = BENCHMARKS.get(first.kind)
    notes = [words.data_words(first)]
    paired = {entry.policies["pretraining_text"] for entry in entries if "pretraining_text" in entry.policies}
    if paired:
        notes.append(f"In stage A the baselines pair training images with: {', '.join(sorted(paired))}.")
    subsets = sorted({name for entry in entries for name in entry.subsets})
    for subset in subsets:
        values = [f"{e.title} {words.number(e.subsets[subset])}" for e in entries if subset in e.subsets]
        notes.append(f"Mean over {subset}: {', '.join(values)}.")
    return Sheet(
        title=f"{dataset}{'' if named is None else f' ({named})'}{marks.of(kind=first.kind)}",
        notes=[note for note in notes if note],
        header=["model", "ours", "patients", "paper", "ours − paper", "published", "MedVLMoE − it", "p (Holm)",
                "over seeds", "stamps"],
        rows=rows,
    )  # fmt: skip


def _ablations(dataset: str, entries: Sequence[Entry], marks: Marks) -> Sheet:
    full = next((entry for entry in entries if entry.model == FULL), None)
    rows = []
    for entry in entries:
        test = None if entry.comparison is None else entry.comparison.test
        loss = "-" if test is None else (
            f"{words.signed(-100 * test['difference'])} [{words.number(-100 * test['high'])}, "
            f"{words.number(-100 * test['low'])}]"
        )  # fmt: skip
        if entry.model != FULL and full is not None and entry.seeds and entry.identities == full.identities:
            loss = "the same runs"
        paper_loss = None if entry.paper is None or entry.model == FULL else entry.paper.auc - TABLE2[FULL].auc
        rows.append(
            [
                entry.title + marks.of(model=entry.model),
                words.ours(entry),
                words.interval(entry.patients),
                loss,
                "-" if entry.comparison is None else words.p_value(entry.comparison.p_adjusted),
                _over_seeds(entry),
                "-" if entry.paper is None else str(entry.paper),
                words.signed(paper_loss),
                words.signed(entry.minus_paper),
                words.count(entry.cost.get("parameters")),
                words.count(entry.cost.get("active")),
                words.count(entry.cost.get("flops")),
                " ".join(entry.stamps) or "-",
            ]
        )
    return Sheet(
        title=dataset,
        notes=[note for note in [words.data_words(entries[0])] if note],
        header=["variant", "ours", "patients", "− full model", "p (Holm)", "over seeds", "paper", "paper's loss",
                "ours − paper", "parameters", "active", "FLOPs", "stamps"],
        rows=rows,
    )  # fmt: skip


def _difference(entry: Entry) -> tuple[str, str, str]:
    """MedVLMoE minus the entry with its interval over patients, Holm's p-value, and the t-interval over seeds."""
    if entry.comparison is None:
        return "-", "-", "-"
    test = entry.comparison.test
    difference = f"{words.signed(100 * test['difference'])} {words.interval([100 * test['low'], 100 * test['high']])}"
    return difference, words.p_value(entry.comparison.p_adjusted), _over_seeds(entry)


def _over_seeds(entry: Entry) -> str:
    """Half of the paired t-interval over seeds of the same difference; none for one seed."""
    test = {} if entry.comparison is None else entry.comparison.test
    if "seeds_half_width" not in test:
        return "-"
    return f"± {words.number(100 * test['seeds_half_width'])} (n = {test['seeds']:.0f})"


def _anchor_sheet(kinds: set[str]) -> Sheet:
    rows = [
        [BENCHMARKS[anchor.kind], f"{anchor.auc:.4g}", anchor.system, anchor.setting, anchor.source]
        for anchor in ANCHORS
        if anchor.kind in kinds
    ]
    return Sheet(
        title="Published results",
        header=["data set", "AUC", "system", "setting", "source"],
        rows=rows or [["-", "-", "-", "-", "-"]],
    )


def _tests(entries: Sequence[Entry]) -> list[str]:
    family = next((entry.comparison.family for entry in entries if entry.comparison is not None), 0)
    if not family:
        return []
    return [
        "Differences between models: of mean AUCs on the same test rows, seed by seed; interval and p-value by "
        "DeLong's method over patients, so for these trained models; 'over seeds' is the paired t-interval. p-values "
        f"are Holm's among all {family} comparisons of this table."
    ]


def _if_stamped(entries: Sequence[Entry]) -> list[str]:
    return [_STAMPED] if _stamps(entries) else []


def _stamps(entries: Sequence[Entry]) -> list[str]:
    return stamps.in_order(stamp for entry in entries for stamp in entry.stamps)


def _names(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(e.dataset for e in entries)), list(dict.fromkeys(e.model for e in entries))
