"""Where a site's folder differs from what was published."""

from medvlmoe.data.check.counts import PartCounts
from medvlmoe.data.check.site import SiteCheck

SIZES = ("images", "studies", "patients")


def differences(check: SiteCheck) -> list[str]:
    """Every difference in words, one line each; images that are not on disk come last."""
    found: list[str] = []
    if check.published is not None:
        for part, published in check.published.parts.items():
            counts = check.found.parts.get(part)
            if counts is not None:
                found += _of_part(part, counts, published)
            elif not published.separate:
                found.append(f"{part}: the part is not there; published are {published.images:,} images")
        for fact, wanted in check.published.facts.items():
            if fact in check.found.facts and check.found.facts[fact] != wanted:
                found.append(f"{fact}: {beside(check.found.facts[fact], wanted)}")
    if check.missing:
        there, named = sum_on_disk(check), len(check.missing) + sum_on_disk(check)
        found.append(f"images on disk: {there:,} of {named:,}, the first missing is {check.missing[0]}")
    return found


def beside(found: int | None, published: int | None, *, at_least: bool = False) -> str:
    """A count with the published one beside it, such as ``7 = 7``, ``7 ≠ 8``, ``9 ≥ 8``; alone if none is published."""
    if found is None:
        return "-"
    if published is None:
        return f"{found:,}"
    sign = ("≥" if found >= published else "<") if at_least else ("=" if found == published else "≠")
    return f"{found:,} {sign} {published:,}"


def sum_on_disk(check: SiteCheck) -> int:
    """Images of the index that are on disk."""
    return max(check.on_disk.values(), default=0)


def _of_part(part: str, counts: PartCounts, published: PartCounts) -> list[str]:
    pairs = [(f"{part}: {size}", getattr(counts, size), getattr(published, size), False) for size in SIZES]
    for value, by_label in published.labels.items():
        unit = " studies" if published.by_study else ""
        pairs += [
            (f"{part}: {label} {value}{unit}", counts.labels[value].get(label), wanted, published.at_least)
            for label, wanted in by_label.items()
        ]
    return [
        f"{what}: {beside(found, wanted, at_least=bound)}"
        for what, found, wanted, bound in pairs
        if found is not None and wanted is not None and (found < wanted if bound else found != wanted)
    ]
