"""Branches inside of a CUDA graph: a number on the device says which of several chains of units runs.

A conditional node of the kind SWITCH (CUDA 12.8) has one graph for each of its values, and takes the value from a
kernel that runs before it. That kernel is compiled for the device at hand when the first such graph is made; compiling
needs no GPU.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from deepcache_trt.errors import BackendError, first_line

if TYPE_CHECKING:
    import torch

Unit: TypeAlias = Callable[[], None]

_NAME = "select_branch"

# The function is CUDA's own, declared as its header for device code has it.
_SOURCE = f"""
typedef unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned int value);

extern "C" __global__ void {_NAME}(cudaGraphConditionalHandle handle, const int* selector)
{{
    cudaGraphSetConditional(handle, static_cast<unsigned int>(*selector));
}}
"""


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A choice among chains of units.

    Attributes:
        address: of an int32 on the device, read when the units before have run: the index of the chain that runs.
        branches: the chains; one may be empty.
    """

    address: int
    branches: tuple[tuple[Unit, ...], ...]


Step: TypeAlias = Unit | Switch


def units_of(steps: Iterable[Step]) -> Iterator[Unit]:
    """Every unit that may run."""
    for step in steps:
        if isinstance(step, Switch):
            for branch in step.branches:
                yield from branch
        else:
            yield step


def call(function: Callable[..., tuple[Any, ...]], *args: Any) -> Any:
    """The result of a call of a library of CUDA; its first one is the error.

    Raises:
        BackendError: the library gave one.
    """
    error, *results = function(*args)
    if int(error) != 0:
        raise BackendError(f"{function.__name__} failed: {getattr(error, 'name', error)}")
    return results[0] if results else None


@functools.cache
def compiled(architecture: str) -> bytes:
    """The kernel that reads a selector, as machine code for an architecture such as "sm_90".

    Raises:
        BackendError: NVRTC is not installed, or it does not know the architecture.
    """
    try:
        from cuda.bindings import nvrtc

        program = call(nvrtc.nvrtcCreateProgram, _SOURCE.encode(), f"{_NAME}.cu".encode(), 0, [], [])
    except (ImportError, RuntimeError) as error:  # the bindings are there, the library is not
        raise BackendError(f"no NVRTC: {first_line(error)}; pip install nvidia-cuda-nvrtc") from error
    try:
        call(nvrtc.nvrtcCompileProgram, program, 1, [f"--gpu-architecture={architecture}".encode()])
        code = bytes(call(nvrtc.nvrtcGetCUBINSize, program))
        call(nvrtc.nvrtcGetCUBIN, program, code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


class Selector:
    """The kernel on a device."""

    def __init__(self, runtime: Any, device: "torch.device") -> None:
        """Load it; raises `BackendError` where that cannot be done."""
        import torch

        major, minor = torch.cuda.get_device_capability(device)
        self._runtime = runtime
        code = compiled(f"sm_{major}{minor}")
        self._library = call(runtime.cudaLibraryLoadData, code, [], [], 0, [], [], 0)
        try:
            self._kernel = call(runtime.cudaLibraryGetKernel, self._library, _NAME.encode())
        except BackendError:
            self.close()
            raise

    def add_to(self, graph: Any, previous: Sequence[Any], switch: Switch) -> tuple[Any, Sequence[Any]]:
        """Add a choice to a graph.

        Args:
            graph: that is being made.
            previous: the nodes that it waits for.
            switch: what chooses, and among how many.

        Returns:
            Its node, and the graph of each branch, to be filled.
        """
        runtime = self._runtime
        handle = call(runtime.cudaGraphConditionalHandleCreate, graph, 0, 0)
        kernel = runtime.cudaKernelNodeParams()
        kernel.func = self._kernel
        kernel.gridDim = kernel.blockDim = _one(runtime)
        kernel.kernelParams = (int(handle), switch.address), (ctypes.c_ulonglong, ctypes.c_void_p)
        select = call(runtime.cudaGraphAddKernelNode, graph, [*previous], len(previous), kernel)
        node = runtime.cudaGraphNodeParams()
        node.type = runtime.cudaGraphNodeType.cudaGraphNodeTypeConditional
        node.conditional.handle = handle
        node.conditional.type = runtime.cudaGraphConditionalNodeType.cudaGraphCondTypeSwitch
        node.conditional.size = len(switch.branches)
        # Bindings of CUDA 12 have the edges' data in a second version of the call.
        add = getattr(runtime, "cudaGraphAddNode_v2", runtime.cudaGraphAddNode)
        added = call(add, graph, [select], None, 1, node)
        return added, node.conditional.phGraph_out

    def close(self) -> None:
        """Unload the kernel; no graph that has it may run any more."""
        call(self._runtime.cudaLibraryUnload, self._library)


def _one(runtime: Any) -> Any:
    """The extent of one thread."""
    extent = runtime.dim3()
    extent.x = extent.y = extent.z = 1
    return extent
