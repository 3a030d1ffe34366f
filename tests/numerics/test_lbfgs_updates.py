"""L-BFGS against Nocedal & Wright's algorithms written in NumPy, and what it does where they have no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import reference
import tensorflow as tf

from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer import pixels
from daemon.transfer.optimizers import RESTARTS, Lbfgs
from daemon.transfer.scales import Scale, Subject
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine.session import Painter
    from daemon.transfer.optimizers import LbfgsState

    Slope = Callable[[np.ndarray], tuple[float, np.ndarray]]

SHAPE = (1, 4, 4, 3)
UPDATES = 15
FIRST_PX = 2.0


class Textbook:
    """Nocedal & Wright (2006), algorithm 7.5 with steps of length 1, its two loops being algorithm 7.4."""

    def __init__(self, history: int) -> None:
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []  # s and y, oldest first
        self._history = history
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def update(self, image: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the next image."""
        if self._before is not None:
            s, y = image - self._before[0], gradient - self._before[1]
            if np.vdot(s, y) > 1e-8 * np.linalg.norm(s) * np.linalg.norm(y):
                self.pairs = [*self.pairs, (s, y)][-self._history :]
        self._before = image, gradient
        return image - self._two_loops(gradient)

    def _two_loops(self, gradient: np.ndarray) -> np.ndarray:
        q, alphas = gradient.copy(), []
        for s, y in self.pairs[::-1]:
            alphas.append(np.vdot(s, q) / np.vdot(s, y))
            q = q - alphas[-1] * y
        if self.pairs:
            s, y = self.pairs[-1]
            r = q * np.vdot(s, y) / np.vdot(y, y)
        else:
            r = q * FIRST_PX / np.abs(gradient).max()
        for (s, y), alpha in zip(self.pairs, alphas[::-1], strict=True):
            r = r + s * (alpha - np.vdot(y, r) / np.vdot(s, y))
        return r


@pytest.fixture
def bowl() -> Slope:
    """A quadratic with a dense Hessian of eigenvalues from 0.1 to 1, far from black and white."""
    random = np.random.default_rng(4)
    axes, _ = np.linalg.qr(random.normal(size=(48, 48)))
    hessian = axes * np.geomspace(0.1, 1, 48) @ axes.T
    deepest = random.uniform(-20, 20, 48)

    def slope(image: np.ndarray) -> tuple[float, np.ndarray]:
        apart = image.reshape(48).astype(np.float64) - deepest
        return 0.5 * apart @ hessian @ apart, (hessian @ apart).reshape(SHAPE)

    return slope


@pytest.fixture
def lbfgs() -> Lbfgs:
    """The product's optimizer."""
    return Lbfgs()


def single(value: Any) -> Any:
    """Make a float32 tensor."""
    return tf.constant(value, tf.float32)


def along(*values: float) -> np.ndarray:
    """Make a picture-shaped vector whose first entries are given."""
    vector = np.zeros(48, np.float32)
    vector[: len(values)] = values
    return vector.reshape(SHAPE)


def pairs_of(state: LbfgsState) -> int:
    """Count the pairs that are known; they come before all that are not."""
    is_known = [float(value) != 0 for value in state.sy]
    assert is_known == sorted(is_known, reverse=True)
    assert [part.shape == SHAPE for part in state.s] == is_known
    assert [part.shape == SHAPE for part in state.y] == is_known
    return sum(is_known)


def descended(lbfgs: Lbfgs, bowl: Slope, updates: int) -> list[tuple[np.ndarray, LbfgsState]]:
    """Give the image after each update and the state that led there."""
    image, state = single(np.zeros(SHAPE)), lbfgs.start(single(np.zeros(SHAPE)), 1.0)
    found = []
    for _ in range(updates):
        loss, gradient = bowl(image.numpy())
        image, state = lbfgs.update(image, single(gradient), single(loss), state)
        found.append((image.numpy(), state))
    return found


def assert_textbook(lbfgs: Lbfgs, bowl: Slope, history: int) -> None:
    """Every image and every known pair is that of the algorithms in float64, with this history."""
    textbook, image = Textbook(history), np.zeros(SHAPE)
    for found, state in descended(lbfgs, bowl, UPDATES):
        before, image = image, textbook.update(image, bowl(image)[1])
        assert np.linalg.norm(found - image) < 1e-3 * np.linalg.norm(image - before)
        assert lbfgs.restart(state) == ""
        assert pairs_of(state) == len(textbook.pairs)
        for found_s, found_y, (s, y) in zip(state.s, state.y, textbook.pairs[::-1], strict=False):
            assert np.linalg.norm(found_s - s) < 1e-2 * np.linalg.norm(s)
            assert np.linalg.norm(found_y - y) < 1e-2 * np.linalg.norm(y)
    assert len(textbook.pairs) == history


# The algorithm


def test_updates_are_those_of_the_textbook(lbfgs: Lbfgs, bowl: Slope) -> None:
    """On a quadratic 15 updates, and the ten newest pairs, newest first, are NumPy's in float64."""
    assert_textbook(lbfgs, bowl, 10)


def test_large_pictures_keep_five_pairs(lbfgs: Lbfgs, bowl: Slope, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the updates are those of the algorithm with a history of five."""
    monkeypatch.setattr(Lbfgs, "large_px", 15)
    assert_textbook(lbfgs, bowl, 5)


def test_a_picture_at_the_limit_keeps_ten_pairs(
    lbfgs: Lbfgs, bowl: Slope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a picture of just as many pixels as the limit nothing is left out; the limit is 4 megapixels."""
    assert Lbfgs.large_px == 4_000_000
    monkeypatch.setattr(Lbfgs, "large_px", 16)
    assert_textbook(lbfgs, bowl, 10)


def test_pairs_move_along_by_one(lbfgs: Lbfgs, bowl: Slope) -> None:
    """The newest pair comes first, the others move back unchanged, and the eleventh is forgotten."""
    before: LbfgsState | None = None
    for number, (_, state) in enumerate(descended(lbfgs, bowl, UPDATES)):
        assert pairs_of(state) == min(number, 10)
        if before is not None:
            for now, then in ((state.s, before.s), (state.y, before.y)):
                assert all(np.array_equal(a, b) for a, b in zip(now[1:], then[:-1], strict=True))
            assert state.sy[1:] == before.sy[:-1]
        before = state


def test_it_gets_to_the_bottom(lbfgs: Lbfgs, bowl: Slope) -> None:
    """Forty updates take the loss of the quadratic below a millionth."""
    image, _ = descended(lbfgs, bowl, 40)[-1]
    assert bowl(image)[0] < 1e-6 * bowl(np.zeros(SHAPE))[0]


def test_the_first_step_moves_the_steepest_pixel_by_two_levels(lbfgs: Lbfgs, bowl: Slope) -> None:
    """The first update goes straight down, its largest entry being 2 gray levels, whatever the loss' scale."""
    for scale in (1e-9, 1.0, 1e9):
        ((image, _),) = descended(lbfgs, lambda x, scale=scale: tuple(scale * part for part in bowl(x)), 1)
        gradient = bowl(np.zeros(SHAPE))[1]
        assert image == pytest.approx(-2 * gradient / np.abs(gradient).max(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("painter_name", "preset"),
    [
        ("painter", "default"),  # on the narrow network
        *(pytest.param("real_painter", name, marks=pytest.mark.nightly) for name in ("paper", "default")),
    ],
)
def test_updates_on_the_real_objective_are_those_of_the_textbook(
    request: pytest.FixtureRequest, picture: Callable[..., np.ndarray], painter_name: str, preset: str
) -> None:
    """At 48 px the first six pictures are those of NumPy's updates, clipped, to a fiftieth of a gray level."""
    settings = Settings.model_validate({**PRESETS[preset], "optimizer": "lbfgs", "size": 48})
    step = request.getfixturevalue(painter_name).step(settings)
    subject = Subject(picture(36, 48), [Style(picture(36, 28, 1))], settings)
    scale = Scale(36, 48, 6)
    compared = targets(step, subject, scale, None)

    def slope(image: np.ndarray) -> np.ndarray:
        with tf.GradientTape() as tape:
            given = single(image)
            tape.watch(given)
            loss = step.loss(given, compared)
        return tape.gradient(loss.total, given).numpy().astype(np.float64)

    image = pixels.to_vgg(subject.start(scale))
    state, textbook = step.optimizer.start(image, 1.0), Textbook(10)
    expected = image.numpy().astype(np.float64)
    low, high = -reference.MEAN_BGR, 255 - reference.MEAN_BGR
    totals = []
    for _ in range(6):
        loss, image, state = step.step(image, compared, state)
        before, expected = expected, np.clip(textbook.update(expected, slope(expected)), low, high)
        assert step.optimizer.restart(state) == ""
        assert np.abs(expected - before).max() > 1
        assert np.abs(image.numpy() - expected).max() < 0.02
        totals.append(float(loss.total))
    assert totals == sorted(totals, reverse=True)


# Pairs that are passed over


@pytest.mark.parametrize(
    ("turn", "is_taken"),
    [
        (along(1), True),
        (along(-1), False),
        (along(0), False),
        (along(0, 1), False),
        (along(5e-9, 1), False),
        (along(5e-8, 1), True),
    ],
    ids=["up", "down", "none", "across", "nearly across", "just enough"],
)
def test_pairs_without_positive_curvature_are_passed_over(
    lbfgs: Lbfgs, turn: np.ndarray, *, is_taken: bool
) -> None:
    """A pair counts where its curvature is above a hundred-millionth of its lengths; else the memory stays."""
    gradient = along(0, 2, 1)  # whose first two entries add to any turn without rounding it
    _, known = lbfgs.update(single(along()), single(gradient), single(9), lbfgs.start(along(), 1.0))
    _, known = lbfgs.update(single(along(0, 0, 1)), single(gradient + along(0, 0, 2)), single(8), known)
    assert pairs_of(known) == 1
    image = along(1, 0, 1)
    slope = gradient + along(0, 0, 2) + turn

    moved, state = lbfgs.update(single(image), single(slope), single(7), known)

    assert pairs_of(state) == 1 + is_taken
    assert np.array_equal(state.s[is_taken], known.s[0])
    if is_taken:
        assert np.array_equal(state.s[0], along(1))
        assert np.asarray(state.y[0]) == pytest.approx(turn, rel=1e-5, abs=1e-6)
    else:  # and the step is the one of the memory as it was: s = y / 2 = e3, so the inverse Hessian is 1/2
        assert np.asarray(moved) == pytest.approx(image - slope / 2, rel=1e-5)
    assert np.array_equal(state.image, image)
    assert np.array_equal(state.gradient, slope)
    assert lbfgs.restart(state) == ""


def test_a_pair_of_huge_weights_counts_too(lbfgs: Lbfgs) -> None:
    """A pair is taken in though the product of its squared lengths is beyond what float32 holds."""
    _, state = lbfgs.update(single(along()), single(along(0, 2)), single(9), lbfgs.start(along(), 1.0))
    _, state = lbfgs.update(single(along(4)), single(along(1e19)), single(8), state)
    assert pairs_of(state) == 1


# Steps that led nowhere


def known_state(lbfgs: Lbfgs, bowl: Slope) -> LbfgsState:
    """Give a state with four pairs."""
    _, state = descended(lbfgs, bowl, 5)[-1]
    assert pairs_of(state) == 4
    return state


def test_a_step_that_doubled_the_loss_is_taken_back(lbfgs: Lbfgs, bowl: Slope) -> None:
    """It starts again from the picture before, straight down, with a step a tenth as long, and says why."""
    state = known_state(lbfgs, bowl)
    steep = along(5, -10, 1)

    moved, after = lbfgs.update(single(along(9, 9)), single(steep), 2.01 * state.loss, state)

    gradient = np.asarray(state.gradient)
    expected = np.asarray(state.image) - 0.2 * gradient / np.abs(gradient).max()
    assert np.asarray(moved) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert pairs_of(after) == 0
    assert float(after.first_px) == pytest.approx(0.2)
    assert lbfgs.restart(after) == RESTARTS[1] == "the loss doubled"
    for name in ("image", "gradient", "loss"):
        assert np.array_equal(getattr(after, name), getattr(state, name)), name
    again, after = lbfgs.update(moved, single(steep), 2.01 * state.loss, after)
    assert float(after.first_px) == pytest.approx(0.02)
    assert np.abs(again - state.image).max() == pytest.approx(0.02, rel=1e-3)
    assert lbfgs.restart(after) == "the loss doubled"


def test_a_loss_that_rose_less_changes_nothing(lbfgs: Lbfgs, bowl: Slope) -> None:
    """A loss just below the double is no reason to step back: the pair is taken in."""
    state = known_state(lbfgs, bowl)
    image = state.image + along(1)
    _, after = lbfgs.update(image, state.gradient + along(1), 1.99 * state.loss, state)
    assert pairs_of(after) == 5
    assert lbfgs.restart(after) == ""


def test_it_goes_on_after_a_step_was_taken_back(lbfgs: Lbfgs, bowl: Slope) -> None:
    """The short step gives the first new pair, with the picture that was gone back to, and it gets down."""
    state = known_state(lbfgs, bowl)
    image, state = lbfgs.update(single(along(9, 9)), single(along(1)), 3 * state.loss, state)
    back = np.asarray(state.image)
    for number in range(12):
        loss, gradient = bowl(image.numpy())
        before, (image, state) = image, lbfgs.update(image, single(gradient), single(loss), state)
        assert pairs_of(state) == min(number + 1, 10)
        assert lbfgs.restart(state) == ""
        if number == 0:
            assert np.array_equal(state.s[0], before - back)
    assert bowl(image.numpy())[0] < 1e-4 * bowl(back)[0]


@pytest.mark.parametrize("curvature", [-0.001, np.nan])
def test_a_direction_that_leads_uphill_restarts(lbfgs: Lbfgs, curvature: float) -> None:
    """Should the memory ever point uphill or nowhere, the step goes straight down, and it says why."""
    planted = lbfgs.start(single(along()), 1.0)
    planted = planted._replace(
        image=single(along()),
        gradient=single(along(1)),
        loss=single(5),
        s=(single(along(1)), *planted.s[1:]),
        y=(single(along()), *planted.y[1:]),
        sy=(single(curvature), *planted.sy[1:]),
    )
    image, gradient = along(0, 0, 1), along(1, 2)

    moved, state = lbfgs.update(single(image), single(gradient), single(4), planted)

    assert np.asarray(moved) == pytest.approx(image - gradient)  # 2 px along the steepest pixel
    assert pairs_of(state) == 0
    assert float(state.first_px) == FIRST_PX
    assert (float(state.loss), lbfgs.restart(state)) == (4.0, "the direction led uphill")
    assert np.array_equal(state.gradient, gradient)
    _, after = lbfgs.update(moved, single(gradient + along(1, 1)), single(9), state)
    assert float(state.loss) * 2 < 9
    assert lbfgs.restart(after) == "the loss doubled"  # what it is compared with was kept


def test_damping_forgets_everything(lbfgs: Lbfgs, bowl: Slope) -> None:
    """After numbers that ran away there is no memory, and the next step is straight down, a tenth as long."""
    known = known_state(lbfgs, bowl)
    moved, damped = lbfgs.damped(known.image, known)
    gradient = np.asarray(known.gradient)
    expected = np.asarray(known.image) - 0.2 * gradient / np.abs(gradient).max()
    assert np.asarray(moved) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert pairs_of(damped) == 0
    assert lbfgs.restart(damped) == ""
    assert float(damped.first_px) == pytest.approx(0.2)
    _, again = lbfgs.damped(known.image, damped)
    assert float(again.first_px) == pytest.approx(0.02)


@pytest.mark.parametrize("loss", [0.0, 7.0])
def test_where_nothing_slopes_it_stays_and_says_so(lbfgs: Lbfgs, loss: float) -> None:
    """A constant loss leaves the picture alone with finite numbers, for ever, and never without a word."""
    image = single(along(3, 4))
    state = lbfgs.start(image, 1.0)
    for _ in range(12):
        image, state = lbfgs.update(image, single(along()), single(loss), state)
        assert np.array_equal(image, along(3, 4))
        assert lbfgs.restart(state) == "the loss has no slope"
        parts = [part for part in tf.nest.flatten(state) if part is not state.loss]
        assert all(np.all(np.isfinite(part)) for part in parts)


def test_it_leaves_a_flat_place_once_there_is_a_slope(lbfgs: Lbfgs, bowl: Slope) -> None:
    """After a time without any slope it goes down as if it had just begun."""
    image = single(np.zeros(SHAPE))
    state = lbfgs.start(image, 1.0)
    loss, gradient = bowl(image.numpy())
    for _ in range(3):
        image, state = lbfgs.update(image, single(along()), single(loss), state)
    image, state = lbfgs.update(image, single(gradient), single(loss), state)
    assert np.asarray(image) == pytest.approx(descended(lbfgs, bowl, 1)[0][0], rel=1e-5, abs=1e-6)


# What it is for


@pytest.mark.nightly
def test_it_takes_a_fraction_of_the_papers_iterations(real_painter: Painter) -> None:
    """At 64 px, L-BFGS comes below the loss of the paper's 100 Adam iterations in at most 20; seen: 13."""
    content, style = (np.asarray(reference.demo_picture(name)) for name in ("photo.jpg", "painting.jpg"))

    def totals(**settings: Any) -> list[float]:
        chosen = Settings.model_validate({**PRESETS["paper"], "size": 64, **settings})
        steps = real_painter.begin(Subject(content, [Style(style)], chosen)).steps()
        return [step.losses.total for step in steps]

    goal = min(totals())
    way = totals(optimizer="lbfgs", iterations=20)
    assert min(way) < goal
    assert way[0] > 5 * goal
