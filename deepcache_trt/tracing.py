"""What must be so while torch traces a model."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def traced_alone() -> Iterator[None]:
    """Nothing else of torch happens in this thread, and no other thread traces.

    torch's tracers keep in globals what they are at, and so does torch.compile. They take every call of torch in their
    thread for one of the model, also those with which something ends that the collector finds just then, as open
    engines do: the graph has these calls then, or torch fails over a program that it has lost count of. So the
    collector waits.
    """
    from torch._dynamo.convert_frame import compile_lock  # takes long to import

    with compile_lock:
        was_collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_collecting:
                gc.enable()
