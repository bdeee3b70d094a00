"""Options: the keywords that every optimizer takes, and the executor that they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

from torch import Tensor

from downslope._checks import refuse
from downslope._engine.native import Native, unavailable
from downslope._engine.storage import StateDtype

if TYPE_CHECKING:
    from downslope._engine.compiled import Compiled

__all__ = ["Execution", "Options", "executor_for"]

Execution = Literal["auto", "native", "compiled", "reference"]


class Options(TypedDict, total=False):
    """Keywords that every optimizer takes.

    maximize: climb instead of descend (default False).
    execution: `"native"` (kernels emitted for the CPU; what cannot be emitted runs as reference), `"compiled"`
        (torch.compile; the first step takes seconds to minutes), `"reference"` (eager PyTorch, one parameter at a time)
        or `"auto"` (compiled on a GPU, native on a CPU where there is a C++ compiler; the default). The manifest says
        what runs each parameter.
    seed: of methods that draw random numbers (default 0); a draw depends on it, the step and the parameter's name.
    state_dtype: how state is stored: `"float32"` (default; the parameter's precision, float32 at least), `"bfloat16"`
        (stochastically rounded), `"8bit"` or `"4bit"` (block-wise); or a dict of these by slot, for the slots in it; or
        a function of a `ParamInfo` that gives either. Embeddings, tensors of fewer than 4096 elements and copies of the
        parameter stay in full precision, and the manifest says so. A function overrides the first two, a slot's name in
        a dict the last. Low-bit values pass through float32, also where the parameter is float64.
    stochastic_rounding: round new bfloat16 parameters up or down at random, so that small updates are not lost (default
        False: to the nearest). Parameters of other dtypes do not change.
    """

    maximize: bool
    execution: Execution
    seed: int
    state_dtype: StateDtype
    stochastic_rounding: bool


def executor_for(owner: str, execution: Execution, params: Iterable[Tensor]) -> Native | Compiled | None:
    """What takes the steps besides the reference executor.

    Raises:
        ArgumentError: for an execution that does not exist, or `"native"` where no kernel can be built.
    """
    known = ("auto", "native", "compiled", "reference")
    if execution not in known:
        refuse(owner, "execution", f"one of {', '.join(map(repr, known))}", execution)
    on_cpu = all(p.device.type in ("cpu", "meta") for p in params)
    if execution == "compiled" or (execution == "auto" and not on_cpu):
        from downslope._engine.compiled import Compiled  # it takes a second to import

        return Compiled()
    if execution == "native" and (reason := unavailable()):
        refuse(owner, "execution", "'auto' or 'reference' on this machine", execution, reason)
    return Native() if execution != "reference" and not unavailable() else None
