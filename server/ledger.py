"""The expert ledger: for every round and expert, whose data moved it, by how much, and when it last moved."""

from typing import Any

from strategies.fedavg import MergeRecord


def ledger_lines(server_round: int, record: MergeRecord, expert_moved_in: list[int]) -> list[dict[str, Any]]:
    """One line an expert.

    Args:
        server_round: the merged round.
        record: what the strategy merged.
        expert_moved_in: round in which each expert last changed, this round included.

    Returns:
        ``{"round", "expert", "samples", "moved_in", "sites": {name: {"samples", "share", "update_norm"}}}`` where
        ``samples`` is the weight that the strategy gave (for ``per_expert``: routed samples).
    """
    return [_line(server_round, expert, record, moved_in) for expert, moved_in in enumerate(expert_moved_in)]


def _line(server_round: int, expert: int, record: MergeRecord, moved_in: int) -> dict[str, Any]:
    samples = {site: float(part.weights.experts_K[expert]) for site, part in record.merged.items()}
    total = sum(samples.values())
    return {
        "round": server_round,
        "expert": expert,
        "samples": total,
        "moved_in": moved_in,
        "sites": {
            site: {
                "samples": count,
                "share": count / total if total else 0.0,
                "update_norm": record.merged[site].update_norms.get(f"expert.{expert}", 0.0),
            }
            for site, count in samples.items()
        },
    }
