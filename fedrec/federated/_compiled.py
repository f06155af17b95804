"""How this package compiles its inner loops, in one place: numba, without the interpreter's lock, kept on disk.

Each loop has a plain version in torch beside it that tests hold it equal to; CUDA always takes the plain one, and so
does everything under `FEDREC_COMPILED=0`, for debugging. Importing this module imports numba, so it is imported where a
loop is first run.

Compiled code is looked up by its own file's time and size: after a change here, or in what a function calls from
another file, delete the .nbi and .nbc files in `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered into vector lanes. What must hold for values that are not finite holds: a NaN stays one, and is
# refused. The order is that of the compiled code, so the same for a user in any chunk and on any thread.
_REORDER = {"reassoc", "arcp", "nsz"}


def compiled(function: F) -> F:
    """The function in machine code, of exactly the arithmetic that is written."""
    return njit(nogil=True, cache=True)(function)  # type: ignore[no-any-return]


def compiled_reordered(function: F) -> F:
    """The function in machine code, whose sums may be taken in another order."""
    return njit(nogil=True, cache=True, fastmath=_REORDER)(function)  # type: ignore[no-any-return]


def inlined_reordered(function: F) -> F:
    """A function that compiled ones call, as a part of each of them, whose sums may be taken in another order.

    The process that compiles a caller would otherwise run a copy of the function that is not the one on disk, and whose
    order is another one: a first run would be rounded otherwise than all that follow it.
    """
    return njit(nogil=True, cache=True, fastmath=_REORDER, forceinline=True)(function)  # type: ignore[no-any-return]


def _generate_lowest_bit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))


def _type_lowest_bit(_context: Any, _word: Any) -> Any:
    return types.int64(types.uint64), _generate_lowest_bit


lowest_bit = intrinsic(_type_lowest_bit)
"""Position of the lowest set bit of a uint64 that is not 0."""
