"""How a radiologist says what the images show, told from what a clinician wrote before they were taken.

The past tense ("had an effusion") is history and passes.
"""

import re

from medvlmoe.data.finding_terms import CHEST_TERMS, term_pattern

_STATES = (
    "seen|noted|present|absent|identified|visuali[sz]ed|demonstrated|clear|normal|unremarkable|unchanged|stable|"
    "enlarged|new|increased|decreased|improved|worse|worsened|larger|smaller|resolved|again|within normal"
)
_PICTURES = r"(?:cxr|x-?rays?|radiographs?|films?|images?)"
REPORT_VOICE = re.compile(
    r"\bthere(?:'s| is| are| has been| have been| remains?)\b"
    rf"|\b(?:is|are|has been|have been|appears?|remains?) (?:\w+ly )?(?:{_STATES})\b"
    r"|\bno (?:evidence|acute|focal|new|definite|significant|large|pleural|interval)\b"
    r"|\b(?:shows?|demonstrates?|reveals?|terminat\w+|projects?)\b|\b(?:compared|in comparison) (?:to|with)\b"
    r"|\b(?:lungs?|heart|silhouette|mediastinum) (?:is|are|size)\b|\btip (?:is|in|at)\b|\bends in\b"
    r"|\b(?:prelim\w*|initial|resident|attending|overnight|outside|radiolog\w+|ed|er|md) (?:re-?)?(?:read|report)\w*\b"
    rf"|\b(?:read as|dictated|current (?:study|exam\w*|{_PICTURES}))\b"
    rf"|\b{_PICTURES} (?:from )?today\b|\btoday(?:'s)? (?:chest )?{_PICTURES}\b",
    re.IGNORECASE,
)
"""Where the report's own voice starts."""

_OBSERVED = re.compile(
    r"(?:(?:a|an|the|again|now|slightly|interval)\s+)*(?:"
    r"tiny|small|smaller|minimal|minor|mild|mildly|moderate|moderately|large|larger|marked|severe|extensive|diffuse|"
    r"patchy|focal|multifocal|subtle|trace|residual|left|right|bilateral|bibasilar|bibasal|basilar|basal|biapical|"
    r"retrocardiac|perihilar|hilar|lingular|upper|lower|middle|persistent|persisting|stable|unchanged|new|increas\w+|"
    r"decreas\w+|worse\w*|improv\w+|resol\w+|enlarged|low|no|lungs?|heart|cardiac|mediastin\w+|cardiomediastin\w+|"
    r"pulmonary|pleural)\b",
    re.IGNORECASE,
)
_CLINICAL = re.compile(
    r"\?|\b(?:eval\w*|assess\w*|rule|r/o|question\w*|query|concern\w*|suspect\w*|possib\w+|probabl\w+|please|check|"
    r"look\w*|monitor\w*|follow\w*|f/u|histor\w+|h/o|hx|known|prior|previous\w*|recent\w*|status|s/p|post|admitted|"
    r"present\w*|had|was|were|ago|last|since|who|for|pain|diagnos\w+|drained|treated)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_FINDING = term_pattern(term for label, terms in CHEST_TERMS.items() if label != "Support Devices" for term in terms)


def first_observation(text: str) -> int | None:
    """Where a sentence after the first names a finding without a verb, as in "Small left effusion."; ``None`` if none.

    The first sentence is the reason for the examination. Sentences that ask, or tell of earlier days, are clinical.
    """
    start = 0
    for number, sentence in enumerate(_SENTENCE_END.split(text)):
        start = text.index(sentence, start)
        if number and _OBSERVED.match(sentence) and _FINDING.search(sentence) and not _CLINICAL.search(sentence):
            return start
        start += len(sentence)
    return None
