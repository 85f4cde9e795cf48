"""What the server may know of a failure at a site: a number and two or three words, never the text of an exception."""

CONFIGURATION = 101
DATA = 102
FILES = 103
MALFORMED_REQUEST = 104
OUT_OF_MEMORY = 105
REFUSED_BY_POLICY = 106
TEXT_LEAKS = 107
UNEXPECTED = 199

NODE_UNAVAILABLE = 5  # Flower's own codes are below 100

_WORDS = {
    CONFIGURATION: "configuration",
    DATA: "data",
    FILES: "files",
    MALFORMED_REQUEST: "malformed request",
    OUT_OF_MEMORY: "out of memory",
    REFUSED_BY_POLICY: "refused by policy",
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
    return _WORDS.get(code, "unknown")
