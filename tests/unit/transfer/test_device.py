"""The choice of a device and its precision, with TensorFlow's view of the machine played."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tensorflow as tf

from daemon.errors import NotReady
from daemon.transfer.backend import device

if TYPE_CHECKING:
    from pathlib import Path


TF32_OFF = ("tf32", False)


class Machine:
    """A machine with some GPUs, which writes down how each is set up."""

    def __init__(self, gpus: int) -> None:
        self.gpus = [f"gpu-{number}" for number in range(gpus)]
        self.done: list[tuple[Any, ...]] = []
        self.refuses: Exception | None = None

    def list_physical_devices(self, kind: str) -> list[str]:
        """List the GPUs."""
        assert kind == "GPU"
        self.done.append(("looked",))
        return self.gpus

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        """Show some devices and hide the others."""
        if self.refuses is not None:
            raise self.refuses
        self.done.append(("visible", tuple(devices), kind))

    def set_memory_growth(self, gpu: str, *, enable: bool) -> None:
        """Let a GPU take memory as it needs it."""
        self.done.append(("growth", gpu, enable))

    def set_logical_device_configuration(self, gpu: str, parts: list[Any]) -> None:
        """Divide a GPU."""
        self.done.append(("limit", gpu, [part.memory_limit for part in parts]))

    def enable_tensor_float_32_execution(self, enabled: bool) -> None:  # noqa: FBT001 - as TensorFlow has it
        """Compute float32 with 10 bits or with 23."""
        self.done.append(("tf32", enabled))

    def get_device_details(self, gpu: str) -> dict[str, str]:
        """Describe a GPU."""
        return {"device_name": f"Model of {gpu}"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Machine:
    """A machine with as many GPUs as the test asks for, default two."""
    made = Machine(getattr(request, "param", 2))
    for name in ("list_physical_devices", "set_visible_devices", "set_logical_device_configuration"):
        monkeypatch.setattr(tf.config, name, getattr(made, name))
    for name in ("set_memory_growth", "get_device_details", "enable_tensor_float_32_execution"):
        monkeypatch.setattr(tf.config.experimental, name, getattr(made, name))
    return made


@pytest.mark.parametrize(
    ("machine", "wanted", "visible", "name"),
    [
        (0, "auto", (), "CPU"),
        (2, "auto", ("gpu-0",), "GPU:0 (Model of gpu-0)"),
        (0, "cpu", (), "CPU"),
        (2, "cpu", (), "CPU"),
        (1, "gpu", ("gpu-0",), "GPU:0 (Model of gpu-0)"),
        (2, "gpu:0", ("gpu-0",), "GPU:0 (Model of gpu-0)"),
        (2, "gpu:1", ("gpu-1",), "GPU:1 (Model of gpu-1)"),
    ],
    indirect=["machine"],
)
def test_the_wanted_device_alone_is_visible(
    machine: Machine, wanted: str, visible: tuple[str, ...], name: str
) -> None:
    """Each wish on each machine leads to one device, and TensorFlow sees no GPU beside it."""
    chosen = device.choose(wanted, "auto", None)
    assert chosen.name.startswith(name)
    assert ("visible", visible, "GPU") in machine.done
    assert [done for done in machine.done if done[0] == "growth"] == [("growth", gpu, True) for gpu in visible]


@pytest.mark.parametrize(
    ("machine", "wanted", "found"),
    [(0, "gpu", "none found"), (0, "gpu:0", "none found"), (1, "gpu:1", "1 found"), (2, "gpu:7", "2 found")],
    indirect=["machine"],
)
def test_a_gpu_that_is_missing_is_never_replaced(machine: Machine, wanted: str, found: str) -> None:
    """A GPU asked for and not there is not ready; neither the CPU nor another GPU is set up in its place."""
    with pytest.raises(NotReady) as caught:
        device.choose(wanted, "auto", None)
    assert f"engine.device is {wanted}" in str(caught.value)
    assert found in str(caught.value)
    assert machine.done == [TF32_OFF, ("looked",)]


def test_cpu_does_not_look_for_gpus(machine: Machine) -> None:
    """`cpu` never asks TensorFlow for GPUs, which would wake their driver."""
    device.choose("cpu", "auto", None)
    assert machine.done == [TF32_OFF, ("visible", (), "GPU")]


def test_memory_limit_makes_one_logical_device(machine: Machine) -> None:
    """A memory limit is set in MB on the chosen GPU, in place of growth, which excludes it."""
    device.choose("gpu:1", "auto", 4096)
    assert ("limit", "gpu-1", [4096]) in machine.done
    assert not [done for done in machine.done if done[0] == "growth"]


@pytest.mark.parametrize("machine", [0], indirect=True)
def test_memory_limit_is_for_gpus_only(machine: Machine) -> None:
    """On a CPU a memory limit sets nothing."""
    device.choose("auto", "auto", 4096)
    assert machine.done == [TF32_OFF, ("looked",), ("visible", (), "GPU")]


@pytest.mark.parametrize("wanted", ["cpu", "gpu", "auto"])
@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
def test_float32_means_float32(machine: Machine, wanted: str, asked: str) -> None:
    """TF32, which would give a GPU's float32 ten bits, is switched off before anything else is done."""
    device.choose(wanted, asked, None)
    assert machine.done[0] == TF32_OFF
    assert [done for done in machine.done if done[0] == "tf32"] == [TF32_OFF]


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.parametrize("wanted", ["cpu", "gpu"])
def test_a_precision_that_is_asked_for_is_taken(machine: Machine, wanted: str, asked: str) -> None:
    """float32 and bfloat16 are taken as asked, on every device, whatever it can do."""
    assert device.choose(wanted, asked, None).precision == asked


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel says of the processor."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(device, "_CPUINFO", path)
    return path


@pytest.mark.parametrize(
    ("flags", "has_onednn", "chosen"),
    [
        ("fpu avx512f avx512_bf16 sse", True, "bfloat16"),
        ("fpu amx_bf16", True, "bfloat16"),
        ("fpu avx512f avx512_bf16x", True, "float32"),
        ("fpu avx2", False, "float32"),
        ("fpu avx512_bf16", False, "float32"),
    ],
)
def test_auto_precision_on_a_cpu(
    flags: str, chosen: str, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch, *, has_onednn: bool
) -> None:
    """`auto` is bfloat16 where the processor multiplies it and TensorFlow has oneDNN do so."""
    cpuinfo.write_text(
        f"processor\t: 0\nmodel name\t: One\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    )
    monkeypatch.setattr(device, "uses_onednn", lambda: has_onednn)
    assert device.choose_precision("auto", None) == chosen
    assert device.processor_name() == "One"


def test_without_cpuinfo_it_is_float32(cpuinfo: Path) -> None:
    """Where the kernel does not describe the processor, nothing is assumed of it, and it still has a name."""
    assert device.choose_precision("auto", None) == "float32"
    assert device.processor_name()


@pytest.mark.parametrize(
    ("details", "chosen"),
    [
        ({"compute_capability": (8, 0)}, "bfloat16"),
        ({"compute_capability": (12, 0)}, "bfloat16"),
        ({"compute_capability": (7, 5)}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_precision_on_a_gpu(details: dict[str, Any], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is bfloat16 on a GPU of compute capability 8 or more, which multiplies it."""
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    assert device.choose_precision("auto", "gpu-0") == chosen


@pytest.mark.parametrize("wanted", ["auto", "cpu", "gpu", "gpu:1"])
@pytest.mark.parametrize(
    "refusal",
    [
        RuntimeError("Visible devices cannot be modified after being initialized"),
        ValueError("Memory growth cannot differ between GPU devices"),
        tf.errors.InternalError(None, None, "cudaSetDevice() failed"),
    ],
)
def test_a_device_that_cannot_be_set_up_is_not_ready(machine: Machine, wanted: str, refusal: Exception) -> None:
    """A refusal by TensorFlow is reported in its words, as not ready rather than as a defect."""
    machine.refuses = refusal
    with pytest.raises(NotReady) as caught:
        device.choose(wanted, "auto", None)
    assert f"engine.device {wanted}" in str(caught.value)
    assert str(refusal) in str(caught.value)


def test_versions_name_what_computes() -> None:
    """The record names Python, TensorFlow, Keras, NumPy and Pillow with their versions."""
    found = device.versions()
    assert set(found) == {"python", "tensorflow", "keras", "numpy", "pillow"}
    assert found["tensorflow"] == tf.__version__
