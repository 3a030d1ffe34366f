"""Python functions to compiled graphs."""

from __future__ import annotations

from typing import Any, Final

import tensorflow as tf

PICTURE: Final = tf.TensorSpec([1, None, None, 3], tf.float32)
FEATURES: Final = tf.TensorSpec([1, None, None, None], tf.float32)
GRAM: Final = tf.TensorSpec([None, None], tf.float32)
SCALAR: Final = tf.TensorSpec([], tf.float32)

# Several compiled steps look to TensorFlow like one that is traced again and again. A test counts traces.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())


def compiled(function: Any, signature: list[Any]) -> Any:
    """Compile a function once for tensors of every size; its first call traces it, no later one does.

    Without autograph, which reads the source at the first call: after an upgrade under a running service that
    would be another source.
    """
    return tf.function(function, input_signature=signature, autograph=False)
