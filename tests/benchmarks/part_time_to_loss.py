"""Seconds to the loss that the paper's loop reaches in 100 iterations: four programs, one objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sidecars
from processes import interleaved
from tables import Mark, Table, first_at, loop_s, median, ratio

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
class Race:
    """The runs on one pair at one size; the first run of preset paper in float32 sets the target."""

    bench: Bench
    files: dict[str, str]
    size: int
    target: float = 0.0
    start: float = 0.0
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Run the plain loop; with --quick only its beginning."""
        count = EXTRAPOLATED_FROM if self.bench.options.quick else ITERATIONS
        return self._ask({"kind": "plain", "iterations": count}, "time-to-loss-a")

    def paper(self, precision: str) -> dict[str, Any]:
        """Run preset paper to its end."""
        answer = self._paint(PAPER, f"time-to-loss-b-{precision}", precision=precision)
        if not self.target:
            losses = [loss for _, loss, _ in answer["marks"]]
            self.target, self.start = min(losses), losses[0]
        return answer

    def lbfgs(self) -> dict[str, Any]:
        """Run L-BFGS until the loss is reached, and recompute the loss of those pictures in float32."""
        answer = self._paint(
            LBFGS, "time-to-loss-c", target=self.target, kept=str(self.bench.work / "time-to-loss-c")
        )
        checked = self._ask({"kind": "paper_losses", "pictures": answer["kept"]}, "time-to-loss-c-losses")
        return {**answer, "checked": checked["losses"]}

    def pastiche(self) -> dict[str, Any]:
        """Run pastiche until the loss is reached."""
        request = {"kind": "to_loss", "target": self.target, "iterations": 3 * ITERATIONS}
        return self.bench.ask_peer({**request, **self.files}, "time-to-loss-d")

    def _paint(self, keys: dict[str, Any], log: str, **more: Any) -> dict[str, Any]:
        answer = self._ask({"kind": "paint", "settings": {**keys, "size": self.size}, **more}, log)
        answer["marks"] = [(iteration, loss, seconds) for iteration, _, loss, seconds in answer["marks"]]
        return answer

    def _ask(self, request: dict[str, Any], log: str) -> dict[str, Any]:
        return self.bench.ask({**request, **self.files}, log)


def run(bench: Bench) -> list[Table]:
    """Run all four on the first pair."""
    size = bench.options.size
    race = Race(bench, bench.scaled(bench.pairs[0], size), size)
    runs: dict[str, Any] = {B: lambda: race.paper("float32"), A: race.plain}
    if bench.ask({"kind": "machine"}, "machine")["precision"] != "float32":
        runs[B_FAST] = lambda: race.paper(bench.options.precision)
    if sidecars.is_known(LBFGS):
        runs[C] = race.lbfgs
    else:
        race.notes.append("(c) is left out: this version has no optimizer lbfgs")
    if bench.peer:
        runs[D] = race.pastiche
    return [_table(race, interleaved(runs, bench.options.repeats))]


def _table(race: Race, answers: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(
        f"To the paper's loss of {ITERATIONS} iterations, {race.bench.pairs[0].name}, {race.size} px",
        ("program", "precision", "iterations", "seconds", "loss", "(a) / it", "(d) / it"),
        notes=[
            f"the loss to reach: {race.target:.5g}, (b)'s best in float32 in this run; start {race.start:.5g}",
            "seconds of the loop alone (model loaded, graph traced, targets computed); medians",
            *race.notes,
        ],
        raw={"target": race.target, "start": race.start, "answers": answers},
    )
    seconds = {
        name: median([_seconds(name, race, answer) for answer in found]) for name, found in answers.items()
    }
    if D in answers:
        table.notes.append(_agreement(race, answers[D], seconds))
    for name in (A, B, B_FAST, C, D):
        if name in answers:
            table.rows.append(_row(name, race, answers[name], seconds))
    if race.bench.options.quick:
        table.notes.append(
            f"(a): {ITERATIONS} times the median of {EXTRAPOLATED_FROM} steps, not the whole loop"
        )
    if C in answers:
        table.notes.append(_checked(race, answers[C]))
    return table


def _row(
    name: str, race: Race, found: list[dict[str, Any]], seconds: dict[str, float | None]
) -> tuple[Any, ...]:
    marks = found[0]["marks"]
    index = _index(name, marks, race.target)
    iterations = ITERATIONS if name == A else marks[index][0] if index is not None else None
    loss = None if index is None else marks[index][1]
    if name == A:
        loss = None if race.bench.options.quick else min(loss for _, loss, _ in marks)
    mine = seconds[name]
    precision = found[0].get("precision", "float32")
    return name, precision, iterations, mine, loss, ratio(seconds.get(A), mine), ratio(seconds.get(D), mine)


def _index(name: str, marks: list[Mark], target: float) -> int | None:
    return len(marks) - 1 if name in {A, B, B_FAST} else first_at(marks, target)


def _seconds(name: str, race: Race, answer: dict[str, Any]) -> float | None:
    marks = answer["marks"]
    index = _index(name, marks, race.target)
    if index is None:
        return None
    seconds = loop_s(marks, index)
    return seconds * ITERATIONS / len(marks) if name == A else seconds


def _agreement(race: Race, found: list[dict[str, Any]], seconds: dict[str, float | None]) -> str:
    """Compare pastiche's start loss with the product's; another objective makes its row void."""
    theirs = found[0]["start_loss"]
    apart = abs(theirs / race.start - 1)
    if apart <= SAME_START:
        return f"pastiche's start loss agrees: {theirs:.8g} and {race.start:.8g}, {apart:.1e} apart"
    seconds[D] = None
    return f"(d) is VOID: pastiche's start loss {theirs:.6g} is not {race.start:.6g} ({apart:.1e} apart)"


def _checked(race: Race, found: list[dict[str, Any]]) -> str:
    """Describe the loss of (c)'s pictures in float32 on their 8-bit pixels."""
    answer = found[0]
    if not answer["checked"]:
        return "(c) did not reach the loss"
    first = first_at(answer["marks"], race.target)
    assert first is not None
    shares = [loss / race.target for loss in answer["checked"]]
    strict = next((index for index, share in enumerate(shares) if share <= 1), None)
    text = f"(c)'s picture there, in float32 on 8-bit pixels: {shares[0]:.4f} of the loss"
    if strict is None:
        return f"{text}; none of the {len(shares)} pictures from there on reaches it"
    seconds = median(
        [loop_s(item["marks"], first + strict) for item in found if len(item["marks"]) > first + strict]
    )
    iteration = answer["marks"][first + strict][0]
    return f"{text}; computed so, the loss is reached after {iteration} iterations, {seconds:.3g} s"
