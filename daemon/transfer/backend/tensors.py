"""Tensors: their specs, functions compiled for them, and arrays that can be saved made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    import numpy.typing as npt

PICTURE: Final = tf.TensorSpec([1, None, None, 3], tf.float32)
FEATURES: Final = tf.TensorSpec([1, None, None, None], tf.float32)
MATRIX: Final = tf.TensorSpec([None, None], tf.float32)
GRID: Final = tf.TensorSpec([None, 2], tf.int32)
SCALAR: Final = tf.TensorSpec([], tf.float32)

# Several compiled steps look to TensorFlow like one that is traced again and again. A test counts traces.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())


def compiled(function: Any, signature: list[Any]) -> Any:
    """Compile a function once for tensors of every size; its first call traces it, no later one does.

    Without autograph, which reads the source at the first call: after an upgrade under a running service that
    would be another source.
    """
    return tf.function(function, input_signature=signature, autograph=False)


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
