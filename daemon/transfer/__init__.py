"""The method: VGG19's features, the losses, the optimizers, and the descent from picture to picture.

Start at `descent`. Nothing here knows jobs, files, logs or the spool: pictures come in as arrays, and every
picture on the way leaves as an `Iterate`. No other package imports TensorFlow.
"""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # TensorFlow ships no types; shapes stand in comments
