"""Hardware: device, precision, memory format, compilation and threads are decided here and nowhere else.

Searches (attacks) run on the *fast view* of a model, a derived copy in the fastest arithmetic that the
machine has; what they find is judged by the model itself in float32.
"""

from robustscape.runtime.preparing import graphs_compiled
from robustscape.runtime.settings import TRUTH, Runtime, channels_last, has_fast_bfloat16, place, threads
from robustscape.runtime.view import FastView, Lowered, PlainView, fast, lowered

__all__ = [
    "TRUTH",
    "FastView",
    "Lowered",
    "PlainView",
    "Runtime",
    "channels_last",
    "fast",
    "graphs_compiled",
    "has_fast_bfloat16",
    "lowered",
    "place",
    "threads",
]
