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
_ASKS = re.compile(
    r"\?|\b(?:eval\w*|assess\w*|rule out|rule in|r/o|question|query|concern for|suspicion|please|check|look for|"
    r"looking|monitor|follow up|follow-up|f/u)\b",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"\b(?:histor(?:y|ies)|h/o|hx|pmh\w*|known|prior|previous(?:ly)?|recent(?:ly)?|status|s/p|admitted|presents?|presenting|"
    r"presented|had|was|were|ago|last (?:night|week|month|year)|since|diagnosed|drained|treated|underwent)\b",
    re.IGNORECASE,
)
_SYMPTOM = re.compile(
    r"\b(?:cough\w*|fevers?|febrile|chills|sputum|hemoptysis|dyspn\w+|sob|doe|shortness|breath\w*|hypox\w+|desat\w*|"
    r"tachy\w+|brady\w+|wheez\w*|crackles?|rales|rhonchi|pain\w*|aches?|weak\w*|fatigue|malaise|weight loss|sweats|"
    r"syncop\w+|dizz\w+|nausea|vomit\w*|emesis|diarrhea|confus\w+|mental|ams|unresponsive|seizures?|falls?|fell|mvc|mva|"
    r"trauma|assault|injur\w+|leukocytosis|wbc|sepsis|letharg\w+|headaches?|distress|arrest|hypotens\w+|hypertens\w+|"
    r"symptoms?|ppd|smok\w+|alcohol|etoh|diabet\w+|hiv|immuno\w+|transplant|dialysis|esrd|surgery|preop\w*|pre-op\w*|"
    r"postop\w*|post-op\w*|chemo\w*|pregnan\w+|year[- ]old|yo|y/o)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_FINDING = term_pattern(term for label, terms in CHEST_TERMS.items() if label != "Support Devices" for term in terms)


def first_observation(text: str) -> int | None:
    """Where an indication or history may go over into what is seen; ``None`` if nowhere.

    The first sentence is the reason for the examination. Each further one must ask something, tell of earlier days or
    name a complaint; and one that starts like a finding ("Small left effusion") must do more than name a complaint.
    """
    start = 0
    for number, sentence in enumerate(_SENTENCE_END.split(text)):
        start = text.index(sentence, start)
        asks_or_tells = _ASKS.search(sentence) or _BEFORE.search(sentence)
        observed = _OBSERVED.match(sentence) and _FINDING.search(sentence)
        if number and not asks_or_tells and (observed or not _SYMPTOM.search(sentence)):
            return start
        start += len(sentence)
    return None
