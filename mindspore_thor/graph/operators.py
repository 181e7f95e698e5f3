"""MindSpore's operators themselves.

Its functions of the same names (``ops.cast``, ``ops.concat``, ``x * 2.0``) are layers of Python
that the compiler evaluates at every use, and a backward pass has hundreds of uses.
"""

from __future__ import annotations

from typing import Any

from mindspore import ops
from mindspore._c_expression import SequenceSliceGetItem_, TupleAdd_


class _Item(ops.Primitive):
    """MindSpore's own operator, and in PyNative mode Python's."""

    def __init__(self) -> None:
        super().__init__("TupleGetItem")

    def __call__(self, values: Any, number: int) -> Any:
        return values[number]


ITEM = _Item()
"""``ITEM(values, number)``: one of a tuple, by a number from 0 that the compiler knows."""


class _Section(SequenceSliceGetItem_):
    """What ``values[begin:end]`` of a tuple ends in, and in PyNative mode Python's."""

    def __init__(self) -> None:
        super().__init__("tuple_slice", "MakeTuple", "TupleGetItem")

    def __call__(self, values: Any, which: slice) -> Any:
        return values[which]


class _Chain(TupleAdd_):
    """What ``x + y`` of tuples ends in, and in PyNative mode Python's."""

    def __init__(self) -> None:
        super().__init__("tuple_add")

    def __call__(self, x: Any, y: Any) -> Any:
        return x + y


CHAIN = _Chain()
"""``CHAIN(x, y)``: one tuple behind another."""

SECTION = _Section()
"""``SECTION(values, slice(begin, end))``: some of a tuple; the slice is a constant of the graph."""

CAST = ops.Cast()
"""``CAST(x, type)``; where ``x`` has the type already, it is gone from the graph."""

ADD, SUB, MUL, DIV, POW = ops.Add(), ops.Sub(), ops.Mul(), ops.Div(), ops.Pow()
MAXIMUM, MINIMUM = ops.Maximum(), ops.Minimum()
"""Of tensors, or of a tensor and a number, entry by entry."""

ABS, SQRT, IS_FINITE = ops.Abs(), ops.Sqrt(), ops.IsFinite()
"""Of one tensor, entry by entry."""

ZEROS_LIKE, ONES_LIKE = ops.ZerosLike(), ops.OnesLike()
"""A tensor of another one's shape and type."""

GREATER, LESS, LESS_EQUAL = ops.Greater(), ops.Less(), ops.LessEqual()
GREATER_EQUAL, EQUAL, NOT_EQUAL = ops.GreaterEqual(), ops.Equal(), ops.NotEqual()
"""Comparisons of tensors, or of a tensor and a number, entry by entry."""

AND, OR, NOT = ops.LogicalAnd(), ops.LogicalOr(), ops.LogicalNot()
"""Of boolean tensors."""

EYE = ops.Eye()
"""``EYE(rows, columns, type)``."""

SELECT = ops.Select()
"""``SELECT(which, x, y)``: ``x`` and ``y`` of one shape, to which ``which`` is broadcast."""

ASSIGN, ASSIGN_ADD, ASSIGN_SUB = ops.Assign(), ops.AssignAdd(), ops.AssignSub()
"""``ASSIGN(parameter, value)``; or what is added to it, or subtracted."""

TRANSPOSE = ops.Transpose()
"""``TRANSPOSE(x, permutation)``."""

GATHER = ops.Gather()
"""``GATHER(x, indices, axis)``."""

MATMUL, BMM = ops.MatMul(), ops.BatchMatMul()
"""``MATMUL(x, y)`` of two matrices; ``BMM(x, y)`` of batches of them."""

# One name for each axis: to take one out of a tuple costs the compiler more than the operator does.
CONCAT0, CONCAT1, CONCAT2, CONCAT3 = (ops.Concat(axis) for axis in range(4))
"""``CONCAT2(tensors)``: one behind the other on axis 2."""

STACK0, STACK1, STACK2 = (ops.Stack(axis) for axis in range(3))
"""``STACK2(tensors)``: axis 2 is a new one."""
