"""From a report, or a hospital's note, to the text that the model reads."""

import re
from collections.abc import Callable, Mapping, Sequence

from medvlmoe.data.finding_terms import CHEST_TERMS, label_terms, term_pattern
from medvlmoe.data.report_context import leak_free_context

_SENTENCE_END = re.compile(r"\n[\W_]*\n|(?<=[.!?;])(?<!\b\d\.)(?<!\b\d\d\.)\s+|\s+(?=\(?\d{1,2}[.)]\s)")


def report_reader(
    mode: str, labels: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None = None
) -> Callable[[str, str], str]:
    """What turns a report and its study id into the text of a record, in one line.

    Args:
        mode: ``context`` (leak-free sections of a MIMIC-style report), ``report`` (all of it) or ``redacted`` (without
            the sentences that name a label, denied or not).
        labels: labels of the site, for ``redacted``.
        synonyms: further terms by label, as a manifest declares them.
    """
    if mode == "context":
        return leak_free_context
    if mode == "report":
        return lambda report, study_id: " ".join(report.split())
    pattern = redaction_pattern(labels, synonyms)
    return lambda report, study_id: redacted(report, pattern)


def redacted(report: str, pattern: re.Pattern[str]) -> str:
    """The report without the sentences in which ``pattern`` is found."""
    sentences = (" ".join(sentence.split()) for sentence in _SENTENCE_END.split(report))
    return " ".join(sentence for sentence in sentences if sentence and not pattern.search(sentence))


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
