"""Tensors to NumPy's arrays, which can be saved, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    import numpy.typing as npt


def arrays_of(state: Any) -> tuple[npt.NDArray[np.float32], ...]:
    """List the tensors of a nest as arrays, which share their memory: together they may be gigabytes."""
    return tuple(np.asarray(part) for part in tf.nest.flatten(state))


def nest_of(signature: Any, arrays: list[Any]) -> Any:
    """Turn arrays into tensors and nest them as a signature is; each array is dropped once its tensor is there.

    So at no time is more than one of them held twice. By an operation, since TensorFlow holds an array that
    became a constant until the next operation is run.
    """
    found = []
    while arrays:
        found.append(tf.identity(arrays.pop(0)))
    return tf.nest.pack_sequence_as(signature, found)
