"""Seconds to the loss that the paper reaches in 100 iterations: four roads, one objective, the same pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sidecars
from processes import interleaved
from tables import Mark, Table, first_at, loop_s, middle, ratio

if TYPE_CHECKING:
    from bench import Bench

ITERATIONS: Final = 100
EXTRAPOLATED_FROM: Final = 8
SAME_START: Final = 1e-4
PAPER: Final[dict[str, Any]] = {"preset": "paper"}
LBFGS: Final[dict[str, Any]] = {"preset": "paper", "optimizer": "lbfgs"}
A, B, B_FAST, C, D = (
    "(a) the paper's loop, eager",
    "(b) preset paper, float32",
    "(b) preset paper",
    "(c) preset paper, L-BFGS",
    "(d) pastiche 1.6, L-BFGS",
)


@dataclass
class Road:
    """The runs on one pair at one size; the first of preset paper in float32 sets the target."""

    bench: Bench
    files: dict[str, str]
    size: int
    target: float = 0.0
    start: float = 0.0
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Run the plain loop, or a part of it."""
        count = EXTRAPOLATED_FROM if self.bench.options.quick else ITERATIONS
        return self._ask({"kind": "plain", "iterations": count}, "road-a")

    def paper(self, precision: str) -> dict[str, Any]:
        """Run preset paper whole."""
        answer = self._paint(PAPER, f"road-b-{precision}", precision=precision)
        if not self.target:
            losses = [loss for _, loss, _ in answer["marks"]]
            self.target, self.start = min(losses), losses[0]
        return answer

    def lbfgs(self) -> dict[str, Any]:
        """Run until the loss is reached, and have the pictures there judged in float32."""
        answer = self._paint(LBFGS, "road-c", target=self.target, kept=str(self.bench.work / "road-c"))
        judged = self._ask({"kind": "paper_losses", "pictures": answer["kept"]}, "road-c-judge")
        return {**answer, "judged": judged["losses"]}

    def pastiche(self) -> dict[str, Any]:
        """Run the peer until the loss is reached."""
        request = {"kind": "road", "target": self.target, "iterations": 3 * ITERATIONS}
        return self.bench.ask_peer({**request, **self.files}, "road-d")

    def _paint(self, keys: dict[str, Any], log: str, **more: Any) -> dict[str, Any]:
        answer = self._ask({"kind": "paint", "settings": {**keys, "size": self.size}, **more}, log)
        answer["marks"] = [(iteration, loss, seconds) for iteration, _, loss, seconds in answer["marks"]]
        return answer

    def _ask(self, request: dict[str, Any], log: str) -> dict[str, Any]:
        return self.bench.ask({**request, **self.files}, log)


def run(bench: Bench) -> list[Table]:
    """Run every road on the first pair."""
    size = bench.options.size
    road = Road(bench, bench.scaled(bench.pairs[0], size), size)
    runs: dict[str, Any] = {B: lambda: road.paper("float32"), A: road.plain}
    if bench.ask({"kind": "machine"}, "machine")["precision"] != "float32":
        runs[B_FAST] = lambda: road.paper(bench.options.precision)
    if sidecars.is_known(LBFGS):
        runs[C] = road.lbfgs
    else:
        road.notes.append("(c) is left out: this version knows no optimizer lbfgs")
    if bench.peer:
        runs[D] = road.pastiche
    return [_table(road, interleaved(runs, bench.options.repeats))]


def _table(road: Road, answers: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(
        f"To the paper's loss of {ITERATIONS} iterations, {road.bench.pairs[0].name}, {road.size} px",
        ("road", "precision", "iterations", "seconds", "loss", "(a) / it", "(d) / it"),
        notes=[
            f"the loss to reach: {road.target:.5g}, (b)'s best in float32 in this run; start {road.start:.5g}",
            "seconds of the loop alone (model loaded, graph traced, targets computed); medians",
            *road.notes,
        ],
        raw={"target": road.target, "start": road.start, "answers": answers},
    )
    seconds = {
        name: middle([_seconds(name, road, answer) for answer in found]) for name, found in answers.items()
    }
    if D in answers:
        table.notes.append(_agreement(road, answers[D], seconds))
    for name in (A, B, B_FAST, C, D):
        if name in answers:
            table.rows.append(_row(name, road, answers[name], seconds))
    if road.bench.options.quick:
        table.notes.append(
            f"(a): {ITERATIONS} times the median of {EXTRAPOLATED_FROM} steps, not the whole loop"
        )
    if C in answers:
        table.notes.append(_judged(road, answers[C]))
    return table


def _row(
    name: str, road: Road, found: list[dict[str, Any]], seconds: dict[str, float | None]
) -> tuple[Any, ...]:
    marks = found[0]["marks"]
    index = _index(name, marks, road.target)
    iterations = ITERATIONS if name == A else marks[index][0] if index is not None else None
    loss = None if index is None else marks[index][1]
    if name == A:
        loss = None if road.bench.options.quick else min(loss for _, loss, _ in marks)
    mine = seconds[name]
    precision = found[0].get("precision", "float32")
    return name, precision, iterations, mine, loss, ratio(seconds.get(A), mine), ratio(seconds.get(D), mine)


def _index(name: str, marks: list[Mark], target: float) -> int | None:
    return len(marks) - 1 if name in {A, B, B_FAST} else first_at(marks, target)


def _seconds(name: str, road: Road, answer: dict[str, Any]) -> float | None:
    marks = answer["marks"]
    index = _index(name, marks, road.target)
    if index is None:
        return None
    seconds = loop_s(marks, index)
    return seconds * ITERATIONS / len(marks) if name == A else seconds


def _agreement(road: Road, found: list[dict[str, Any]], seconds: dict[str, float | None]) -> str:
    """Compare the peer's start loss with ours; another objective makes its row void."""
    theirs = found[0]["start_loss"]
    apart = abs(theirs / road.start - 1)
    if apart <= SAME_START:
        return f"pastiche's start loss agrees: {theirs:.8g} and {road.start:.8g}, {apart:.1e} apart"
    seconds[D] = None
    return f"(d) is VOID: pastiche's start loss {theirs:.6g} is not ours, {road.start:.6g} ({apart:.1e} apart)"


def _judged(road: Road, found: list[dict[str, Any]]) -> str:
    """Say what the pictures of (c) are worth in float32 on their 8-bit pixels."""
    answer = found[0]
    if not answer["judged"]:
        return "(c) did not reach the loss"
    first = first_at(answer["marks"], road.target)
    assert first is not None
    shares = [loss / road.target for loss in answer["judged"]]
    strict = next((index for index, share in enumerate(shares) if share <= 1), None)
    text = f"(c)'s picture there, rounded to 8 bits and judged in float32: {shares[0]:.4f} of the loss"
    if strict is None:
        return f"{text}; none of the {len(shares)} pictures from there on is at 1 or below"
    seconds = middle(
        [loop_s(item["marks"], first + strict) for item in found if len(item["marks"]) > first + strict]
    )
    iteration = answer["marks"][first + strict][0]
    return f"{text}; judged so, the loss is reached after {iteration} iterations, {seconds:.3g} s"
