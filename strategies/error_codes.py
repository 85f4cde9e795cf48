"""What the server may know of a failure at a site: a number and a few words, never the text of an exception.

Flower's own codes are below 100; 101 to 109 and 199 are failures, 110 to 129 are refusals by the site's own policy.
"""

CONFIGURATION = 101
DATA = 102
FILES = 103
MALFORMED_REQUEST = 104
OUT_OF_MEMORY = 105
TEXT_LEAKS = 107
OTHER_VERSION = 110
CODE_NOT_REVIEWED = 111
RUN_NOT_APPROVED = 112
OUTSIDE_HOURS = 113
TOO_MANY_ROUNDS = 114
GROUP_NOT_ALLOWED = 115
CODEC_NOT_ALLOWED = 116
UPDATE_TOO_LARGE = 117
COHORT_TOO_SMALL = 118
NO_DIFFERENTIAL_PRIVACY = 119
SITE_FILE_NAMED = 120
PRIVACY_SPENT = 121
PRIVACY_ACCOUNT = 122
UNEXPECTED = 199

NODE_UNAVAILABLE = 5

_REFUSALS = {
    OTHER_VERSION: "another version of the framework",
    CODE_NOT_REVIEWED: "code that the site has not reviewed",
    RUN_NOT_APPROVED: "run not approved",
    OUTSIDE_HOURS: "outside the site's hours",
    TOO_MANY_ROUNDS: "more rounds than the site allows",
    GROUP_NOT_ALLOWED: "parameter group not allowed out",
    CODEC_NOT_ALLOWED: "number format not allowed out",
    UPDATE_TOO_LARGE: "update larger than allowed",
    COHORT_TOO_SMALL: "too few examples or patients",
    NO_DIFFERENTIAL_PRIVACY: "no differential privacy",
    SITE_FILE_NAMED: "the request names a file at the site",
    PRIVACY_SPENT: "the site's privacy budget is spent",
    PRIVACY_ACCOUNT: "the site's account of spent privacy does not fit",
}
_WORDS = {
    CONFIGURATION: "configuration",
    DATA: "data",
    FILES: "files",
    MALFORMED_REQUEST: "malformed request",
    OUT_OF_MEMORY: "out of memory",
    TEXT_LEAKS: "its text leaks the labels",
    UNEXPECTED: "unexpected",
    1: "the app did not load",
    2: "the app raised an exception",
    3: "the reply was never uploaded whole",
    4: "the reply is gone",
    NODE_UNAVAILABLE: "unreachable",
    6: "a mod refused",
    7: "the app's bundle is invalid",
    8: "the app's process died",
}


def words_of(code: int) -> str:
    """An error code in words."""
    if is_refusal(code):
        return f"refused by policy: {_REFUSALS.get(code, 'unknown')}"
    return _WORDS.get(code, "unknown")


def is_refusal(code: int) -> bool:
    """Whether the site's own policy forbids what was asked."""
    return 110 <= code < 130
