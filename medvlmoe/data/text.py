"""What the model may read about a study: a constant opening, view, age and sex, each from a closed list.

Free text never passes through here, so a label cannot reach the prompt by way of a badly chosen column.
"""

import re
from collections.abc import Sequence

_VIEWS = {
    "pa": "PA", "postero-anterior": "PA", "posteroanterior": "PA",
    "ap": "AP", "antero-posterior": "AP", "anteroposterior": "AP",
    "ap supine": "AP supine", "ap erect": "AP erect", "ap axial": "AP axial", "pa lld": "PA", "pa rld": "PA",
    "lateral": "lateral", "ll": "lateral", "rl": "lateral", "l": "lateral", "lat": "lateral",
    "lao": "oblique", "rao": "oblique", "oblique": "oblique", "frontal": "frontal",
}  # fmt: skip
_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}
_OLDEST = 120  # higher ages are typing errors; ChestX-ray14 of 2017 has some above 400


def view_words(value: str) -> str:
    """The view in plain words; empty if it is not one we know."""
    return _VIEWS.get(" ".join(value.lower().replace("_", " ").split()), "")


def sex_words(value: str) -> str:
    """``male``, ``female`` or empty."""
    return _SEXES.get(value.strip().lower(), "")


def age_words(value: str) -> str:
    """``57-year-old``, or empty if the value is no plausible age. Accepts ``57``, ``57.0``, ``057Y``."""
    matched = re.fullmatch(r"0*(\d{1,3})(?:\.0*)?\s*[Yy]?", value.strip())
    return f"{int(matched[1])}-year-old" if matched and int(matched[1]) <= _OLDEST else ""


def prompt(opening: str, *, view: str = "", age: str = "", sex: str = "") -> str:
    """One record's text; facts that are unknown are left out.

    Example: ``prompt("Frontal chest radiograph", view="PA", age="57", sex="M")`` is
    ``"Frontal chest radiograph, PA view. 57-year-old male."``
    """
    first = ", ".join(part for part in (opening.rstrip(" ."), f"{view_words(view)} view".strip()) if part != "view")
    age_part, sex_part = age_words(age), sex_words(sex)
    person = f"{age_part or ''} {sex_part or ('patient' if age_part else '')}".strip()
    sentences = [first, person[:1].upper() + person[1:]]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def prompts(mode: str, opening: str, *, views: Sequence[str], ages: Sequence[str], sexes: Sequence[str]) -> list[str]:
    """The texts of N records; ``mode`` is ``none`` (the opening alone) or any other."""
    if mode == "none":
        return [prompt(opening)] * len(views)
    memory: dict[tuple[str, str, str], str] = {}  # a hundred thousand records share a few hundred texts
    for key in zip(views, ages, sexes, strict=True):
        if key not in memory:
            memory[key] = prompt(opening, view=key[0], age=key[1], sex=key[2])
    return [memory[key] for key in zip(views, ages, sexes, strict=True)]
