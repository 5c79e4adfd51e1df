"""Figures: what was measured, of whom, how often. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

Round = Mapping[str, float]
"""What one run of one contender gave: metric to value."""

_COMPARISONS: Final = {"at most": operator.le, "below": operator.lt, "at least": operator.ge}


@dataclass(frozen=True)
class Target:
    """What the median of a figure, or its ratio, is wanted to be."""

    comparison: Literal["at most", "below", "at least"]
    limit: float
    of: Literal["value", "ratio"] = "value"

    def is_met(self, figure: Figure) -> bool | None:
        """None: there is nothing to compare."""
        reached = figure.ratio if self.of == "ratio" else figure.median
        return None if reached is None else bool(_COMPARISONS[self.comparison](reached, self.limit))


@dataclass(frozen=True)
class Figure:
    """One metric of one contender in one case. `values`: one for each round. `reference`: the values, in the same
    rounds, of whom it is compared with."""

    case: str
    contender: str
    metric: str
    values: Sequence[float]
    reference: Sequence[float] | None = None
    target: Target | None = None

    @property
    def median(self) -> float:
        """Of the rounds."""
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        """How many times the reference is of this, as the median of the rounds; None without a reference."""
        if self.reference is None:
            return None
        ratios = [other / own for other, own in zip(self.reference, self.values, strict=True) if own]
        return median(ratios) if ratios else None


@dataclass
class Findings:
    """What a part found out. `notes` say what figures cannot: what was missing, what went wrong."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, case: str, rounds: Mapping[str, Sequence[Round]], targets: Mapping[tuple[str, str], Target] | None = None
    ) -> None:
        """The figures of a case from its rounds by contender, the first of which is what the others are compared with.

        `targets`: by contender and metric.
        """
        first = next(iter(rounds))
        for contender, results in rounds.items():
            for metric in results[0]:
                values = [result[metric] for result in results]
                others = [result.get(metric, 0.0) for result in rounds[first]]
                reference = None if contender == first or metric not in rounds[first][0] else others
                target = (targets or {}).get((contender, metric))
                self.figures.append(Figure(case, contender, metric, values, reference, target))


def alternate(rounds: int, runs: Mapping[str, Callable[[], Round]]) -> dict[str, list[Round]]:
    """The results of `rounds` of all `runs`, which take turns; who is first changes, for the first may fare worse."""
    results: dict[str, list[Round]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            results[name].append(runs[name]())
    return results


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed. Raises ValueError without any."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[max(-int(-share * len(ordered) // 1), 1) - 1]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the worst, in milliseconds."""
    return {
        "p50 ms": quantile(seconds, 0.5) * 1000,
        "p99 ms": quantile(seconds, 0.99) * 1000,
        "max ms": max(seconds) * 1000,
    }
