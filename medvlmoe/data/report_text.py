"""From a report, or a hospital's note, to the text that the model reads."""

import re
from collections.abc import Mapping, Sequence

from medvlmoe.data.finding_terms import CHEST_TERMS, label_terms, term_pattern
from medvlmoe.data.report_context import leak_free_context

REPORT_MODES = ("report", "redacted")
"""Values of ``DatasetConfig.text`` with which the model reads what was written about the images."""

_SENTENCE_END = re.compile(r"\n[\W_]*\n|(?<=[.!?;])(?<!\b\d\.)(?<!\b\d\d\.)\s+|\s+(?=\(?\d{1,2}[.)]\s)")


def report_text(report: str, mode: str, *, redact: re.Pattern[str], study_id: str = "") -> str:
    """The text of one record, in one line.

    Args:
        report: the whole report.
        mode: ``context`` (leak-free sections of a MIMIC-style report), ``report`` (all of it) or ``redacted`` (without
            the sentences that name a finding, denied or not).
        redact: what names a finding, see :func:`redaction_pattern`.
        study_id: MIMIC's study number, for ``context``.
    """
    if mode == "context":
        return leak_free_context(report, study_id)
    if mode == "redacted":
        sentences = (" ".join(sentence.split()) for sentence in _SENTENCE_END.split(report))
        return " ".join(sentence for sentence in sentences if sentence and not redact.search(sentence))
    return " ".join(report.split())


def redaction_pattern(labels: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None = None) -> re.Pattern[str]:
    """What a sentence must not name to stay in a redacted report.

    Args:
        labels: labels of the site. One finding of the chest stands for all: they are named by each other's words.
        synonyms: further terms by label, as a manifest declares them.
    """
    patterns = label_terms(labels, synonyms or {})
    expressions = [pattern.pattern for pattern in patterns.values()]
    if any(label in CHEST_TERMS for label in labels):
        expressions.append(term_pattern(term for terms in CHEST_TERMS.values() for term in terms).pattern)
    return re.compile("|".join(expressions), re.IGNORECASE)
