"""Python functions to compiled graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURE: Final = tf.TensorSpec([1, None, None, 3], tf.float32)
SCALAR: Final = tf.TensorSpec([], tf.float32)

# TensorFlow takes the programs of several plans for one that is traced again and again. A test counts traces.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())


def compiled(function: Callable[..., Any], signature: list[Any]) -> Any:
    """Compile a function once for tensors of every size; its first call traces it, no later one does.

    Without autograph, which reads the source at the first call: an upgrade under a running service would have
    it read another one.
    """
    return tf.function(function, input_signature=signature, autograph=False)
