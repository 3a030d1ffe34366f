"""Weights from the package, from Keras' download, and from files of every layout, whole and damaged."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np
import pytest

from daemon.errors import NotReady
from daemon.settings import LAYERS
from daemon.transfer import weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.transfer.weights import Weights

# Keras reads its own variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

DATA = resources.files("daemon.transfer") / "weights_data"
Layers = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def bundled() -> Weights:
    """The bundled weights."""
    return weights.load("bundled")


@pytest.fixture(scope="module")
def model(bundled: Weights) -> keras.Model:
    """Keras' own VGG19 with the bundled numbers."""
    made = keras.applications.VGG19(include_top=False, weights=None)
    for name, (kernel, bias) in bundled.layers.items():
        made.get_layer(name).set_weights([kernel, bias])
    return made


def assert_equal(found: Weights, expected: Weights) -> None:
    """Every kernel and bias is equal to the bit and float32."""
    assert list(found.layers) == list(LAYERS)
    for name, arrays in expected.layers.items():
        for ours, theirs in zip(found.layers[name], arrays, strict=True):
            assert ours.dtype == np.float32
            assert np.array_equal(ours, theirs), name


def refusal(source: object) -> str:
    """The one readable line with which a file is refused."""
    with pytest.raises(NotReady) as caught:
        weights.load(str(source))
    message = str(caught.value)
    assert str(source) in message
    assert "\n" not in message
    return message


# Bundled


def test_bundled_weights_are_the_file_that_the_readme_describes(bundled: Weights) -> None:
    """The recorded SHA-256 is that of the bytes in the package and the one its README states."""
    stated = re.search(r"SHA-256 ([0-9a-f]{64})", (DATA / "README.md").read_text())
    assert stated is not None
    assert bundled.sha256 == stated[1]
    assert bundled.sha256 == hashlib.sha256((DATA / "vgg19_imagenet_8bit.npz").read_bytes()).hexdigest()
    assert bundled.source == "bundled"


def test_bundled_weights_are_whole(bundled: Weights) -> None:
    """All 16 layers are there in the shapes of Keras' VGG19, none of them empty."""
    expected = {
        layer.name: tuple(layer.kernel.shape)
        for layer in keras.applications.VGG19(include_top=False, weights=None).layers
        if "conv" in layer.name
    }
    assert {name: kernel.shape for name, (kernel, _) in bundled.layers.items()} == expected
    assert weights.shapes() == expected
    assert all(kernel.std() > 0.001 for kernel, _ in bundled.layers.values())


# Files of Keras


def test_keras_3_weights_file_is_read(tmp_path: Path, model: keras.Model, bundled: Weights) -> None:
    """What `save_weights` of the installed Keras writes gives the same numbers, in the same layers."""
    path = tmp_path / "vgg19.weights.h5"
    model.save_weights(path)
    found = weights.load(str(path))
    assert_equal(found, bundled)
    assert found.source == str(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_keras_3_layers_under_their_own_names_are_read(
    tmp_path: Path, model: keras.Model, bundled: Weights
) -> None:
    """A `.weights.h5` whose groups bear the layers' names instead of conv2d, conv2d_1, ... is read as well."""
    path = tmp_path / "named.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        for index, layer in enumerate(LAYERS):
            file.move(f"layers/conv2d_{index}" if index else "layers/conv2d", f"layers/{layer}")
    assert_equal(weights.load(str(path)), bundled)


def test_full_model_file_is_read(
    tmp_path: Path, model: keras.Model, bundled: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `model.save` writes into an `.h5` gives the same numbers."""
    monkeypatch.setattr(logging.getLogger("absl"), "disabled", True)  # Keras calls the layout old
    model.save(tmp_path / "model.h5")
    assert_equal(weights.load(str(tmp_path / "model.h5")), bundled)


def write_legacy(path: Path, layers: Layers, names: tuple[str, str]) -> Path:
    """Write the layout of Keras 1 and 2: a group a layer, its arrays listed in `weight_names` as bytes."""
    with h5py.File(path, "w") as file:
        everything = ["input_1", *layers, "block5_pool"]
        file.attrs["layer_names"] = [name.encode() for name in everything]
        for layer in everything:
            group = file.create_group(layer)
            listed = [name.format(layer=layer) for name in names] if layer in layers else []
            group.attrs["weight_names"] = np.array([name.encode() for name in listed], "S")
            for name, array in zip(listed, layers.get(layer, ()), strict=True):
                group[name] = array
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("{layer}_W_1:0", "{layer}_b_1:0"),  # the notop file of 2016 that Keras still downloads
        ("{layer}/kernel:0", "{layer}/bias:0"),  # Keras 2, a group in the group
        ("{layer}/kernel", "{layer}/bias"),  # Keras 3 writing the old layout
    ],
)
def test_legacy_notop_file_is_read(tmp_path: Path, bundled: Weights, names: tuple[str, str]) -> None:
    """The old layout gives the same numbers by whatever names its `weight_names` list."""
    path = write_legacy(tmp_path / "notop.h5", bundled.layers, names)
    assert_equal(weights.load(str(path)), bundled)


def test_legacy_file_is_what_keras_itself_reads(tmp_path: Path, model: keras.Model, bundled: Weights) -> None:
    """The test's own legacy file is one: Keras loads it into VGG19 and finds the same numbers."""
    path = write_legacy(tmp_path / "notop.h5", bundled.layers, ("{layer}/kernel:0", "{layer}/bias:0"))
    fresh = keras.applications.VGG19(include_top=False, weights=None)
    fresh.load_weights(path)
    for ours, theirs in zip(fresh.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


# Damaged and foreign files


def test_truncated_file_is_refused(tmp_path: Path, model: keras.Model) -> None:
    """Half a weights file is refused as truncated."""
    path = tmp_path / "vgg19.weights.h5"
    model.save_weights(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in refusal(path)


def test_truncated_npz_is_refused(tmp_path: Path) -> None:
    """Half of the bundled file is refused."""
    data = (DATA / "vgg19_imagenet_8bit.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    assert "not a readable weights file" in refusal(tmp_path / "half.npz")


@pytest.mark.parametrize("name", ["words.h5", "words.weights.h5", "words.npz"])
@pytest.mark.parametrize("text", ["", "these are no weights\n" * 50])
def test_text_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """A text or an empty file by a weights file's name is refused."""
    (tmp_path / name).write_text(text)
    assert "not a readable weights file" in refusal(tmp_path / name)


def test_missing_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a folder, is refused in the system's words."""
    assert refusal(tmp_path / "none.h5").endswith("(No such file or directory)")
    assert refusal(tmp_path).endswith("(Is a directory)")


@pytest.fixture
def damaged(tmp_path: Path, bundled: Weights) -> Callable[..., Path]:
    """Write a legacy file of zeros, kept off the disk, in which one layer's group was changed."""

    def write(layer: str, change: Callable[[h5py.Group], None]) -> Path:
        path = tmp_path / "damaged.h5"
        with h5py.File(path, "w") as file:
            for name, arrays in bundled.layers.items():
                group = file.create_group(name)
                group.attrs["weight_names"] = [b"kernel", b"bias"]
                for what, array in zip(("kernel", "bias"), arrays, strict=True):
                    group.create_dataset(what, array.shape, "f4")
            change(file[layer])
        return path

    return write


def reshaped(name: str, shape: tuple[int, ...]) -> Callable[[h5py.Group], None]:
    """Give a member of the layer's group another shape."""

    def change(group: h5py.Group) -> None:
        del group[name]
        group.create_dataset(name, shape, "f4")

    return change


def spoilt(name: str, value: float) -> Callable[[h5py.Group], None]:
    """Put one value that is no number into a member of the layer's group."""

    def change(group: h5py.Group) -> None:
        group[name][(0,) * group[name].ndim] = value

    return change


def test_an_undamaged_file_of_zeros_is_read(damaged: Callable[..., Path]) -> None:
    """What the tests below damage is accepted as long as it is whole."""
    assert list(weights.load(str(damaged("block1_conv1", lambda _group: None))).layers) == list(LAYERS)


def test_missing_layer_is_named_with_its_shape(damaged: Callable[..., Path]) -> None:
    """A file without a layer is refused by that layer's name and the shape it should have."""
    message = refusal(damaged("block4_conv3", lambda group: group.parent.__delitem__("block4_conv3")))
    assert "block4_conv3 is missing" in message
    assert "(3, 3, 512, 512)" in message


@pytest.mark.parametrize(
    ("what", "shape", "expected"),
    [
        ("kernel", (3, 3, 128, 128), "(3, 3, 128, 256)"),
        ("kernel", (3, 3, 256, 128), "(3, 3, 128, 256)"),  # as many numbers, in another order
        ("bias", (255,), "(256,)"),
    ],
)
def test_wrong_shape_is_named_with_both_shapes(
    damaged: Callable[..., Path], what: str, shape: tuple[int, ...], expected: str
) -> None:
    """A layer of another network is refused by name, with the shape found and the shape expected."""
    message = refusal(damaged("block3_conv1", reshaped(what, shape)))
    assert f"block3_conv1 {what} has shape {shape}, expected {expected}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["kernel", "bias"])
def test_values_that_are_no_numbers_are_refused(damaged: Callable[..., Path], what: str, value: float) -> None:
    """One NaN or infinity anywhere is refused by its layer's name."""
    assert f"block2_conv2 {what} holds values that are no numbers" in refusal(
        damaged("block2_conv2", spoilt(what, value))
    )


def test_damage_inside_a_layer_names_the_layer(damaged: Callable[..., Path]) -> None:
    """A layer that lacks an array is refused by its name."""
    message = refusal(damaged("block5_conv1", lambda group: group.__delitem__("bias")))
    assert "block5_conv1: 1 arrays found, expected a kernel and a bias" in message


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """VGG16, whose layers bear the same names, is refused by the first layer in which it differs."""
    path = tmp_path / "vgg16.weights.h5"
    keras.applications.VGG16(include_top=False, weights=None).save_weights(path)
    assert "block3_conv4 kernel has shape (3, 3, 256, 512), expected (3, 3, 256, 256)" in refusal(path)


class Trap:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.mark).touch, (self.mark,)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    """An npz that holds pickled objects is refused, and what is in them does not run."""
    mark, path = tmp_path / "mark", tmp_path / "trap.npz"
    np.savez(path, **{"block1_conv1/kernel_index": np.array([Trap(mark)], object)})
    assert "not a readable weights file" in refusal(path)
    path.write_bytes(pickle.dumps(Trap(mark)))
    assert "not a readable weights file" in refusal(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - the trap works
    assert mark.exists()


# Keras' download


def test_imagenet_is_keras_download_with_its_hash(
    tmp_path: Path, bundled: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`imagenet` asks Keras for the file and hash that keras.applications itself uses, and reads the answer."""
    path = write_legacy(tmp_path / "cached.h5", bundled.layers, ("{layer}_W_1:0", "{layer}_b_1:0"))
    asked: list[tuple[Any, ...]] = []

    def get_file(*args: Any, **options: Any) -> str:
        asked.append((*args, options))
        return str(path)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    found = weights.load("imagenet")
    assert_equal(found, bundled)
    assert (found.source, found.sha256) == ("imagenet", hashlib.sha256(path.read_bytes()).hexdigest())

    theirs: list[tuple[Any, ...]] = []

    def recording(*args: Any, **options: Any) -> None:
        theirs.append((*args, options))
        raise InterruptedError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", recording)
    with pytest.raises(InterruptedError):
        keras.applications.VGG19(include_top=False, weights="imagenet")
    assert asked == theirs


def test_a_download_that_fails_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, or with a wrong hash, `imagenet` is not ready and names the address."""

    def get_file(*_args: Any, **_options: Any) -> str:
        raise ValueError("Incomplete or corrupted file detected")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(
        NotReady, match=r"cannot download https://storage\.googleapis\.com/.*notop\.h5 .*corrupted"
    ):
        weights.load("imagenet")
