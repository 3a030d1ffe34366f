"""The transfer itself: VGG19, losses, optimisers and the loop. The only place for TensorFlow.

Nothing here knows files of jobs, logs or the spool: pictures come in as arrays, steps come out as facts.
"""
