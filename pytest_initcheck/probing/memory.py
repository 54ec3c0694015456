"""The memory behind tensors, put back byte for byte: values, size, and which tensor looks at which part of it.

Tensors are not enough. A forward pass may free what it was given (``x.untyped_storage().resize_(0)``, as reversible
networks do), point a tensor elsewhere (``.data =``, ``set_``), or write through another view into the same buffer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.masked import MaskedTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

#: A view of less than this share of its memory is copied by itself: a batch of a large data set that is kept in memory.
_SMALL_PART = 0.25


def is_dense(tensor: Tensor) -> bool:
    """Whether ``tensor`` is one block of numbers with sizes and strides: not sparse, nested, masked or made of others."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_nested
        and not is_traceable_wrapper_subclass(tensor)
        and not isinstance(tensor, MaskedTensor)
    )


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a sparse one consists of."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def holds_values(tensor: Tensor) -> bool:
    """Whether ``tensor`` can be read: its memory is there, and large enough for it."""
    if tensor.is_meta:
        return False
    if not is_dense(tensor):
        return True
    if tensor.numel() == 0:
        return True
    last = tensor.storage_offset() + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return (last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes()


def storage_key(tensor: Tensor) -> int | None:
    """Return what is equal for tensors that share memory, ``None`` where that cannot be told."""
    if not is_dense(tensor):
        return None
    return int(tensor.untyped_storage()._cdata)


def writable(tensors: Iterable[Tensor]) -> list[bool]:
    """Whether the memory of each tensor may be written to: a file that is mapped read-only ends the process on the first write.

    Torch does not know. The operating system is asked to write each tensor's first byte where it stands: it refuses, and
    raises no signal.
    """
    asked = [t if t.device.type == "cpu" and storage_key(t) is not None and t.numel() else None for t in tensors]
    if not hasattr(os, "readv"):
        return [True] * len(asked)
    out, into = os.pipe()
    try:
        return [t is None or not holds_values(t) or _takes_a_byte(t.data_ptr(), out, into) for t in asked]
    finally:
        os.close(out)
        os.close(into)


def _takes_a_byte(address: int, out: int, into: int) -> bool:
    byte = (ctypes.c_char * 1).from_address(address)
    os.write(into, byte)
    try:
        os.readv(out, [byte])
    except OSError:
        os.read(out, 1)
        return False
    return True


class Kept:
    """One tensor: the memory it looks at, and a copy of that memory once one was made.

    Args:
        tensor: the tensor.
        blocks: memory that is kept already, by :func:`storage_key`; what several tensors share is copied once.
        owner: the parameter that ``tensor`` is this rank's part of, where it is not one itself.

    Attributes:
        trained: whether it, or its owner, required a gradient.
    """

    def __init__(self, tensor: Tensor, blocks: dict[int, _Block], owner: Tensor | None = None) -> None:
        self.tensor = tensor
        self.owner = tensor if owner is None else owner
        # The same memory as another object, so that writing to it is no in-place operation on the tensor.
        self._alias = tensor.detach() if tensor.is_inference() else tensor.data
        self._version = _version(tensor)
        self.trained = self.owner.requires_grad
        key = storage_key(tensor)
        self._block: _Block | None = None
        self._copy: Tensor | None = None
        if key is not None:
            self._block = blocks.get(key)
            if self._block is None:
                self._block = blocks[key] = _Block(self._alias.untyped_storage())

    def back_up(self) -> None:
        """Copy the values; a second call changes nothing."""
        block = self._block
        if block is None:
            if self._copy is None and not self._alias.is_meta:
                self._copy = self._alias.clone()
        elif block.copy is None and self._copy is None and holds_values(self._alias):
            part = self._alias.numel() * self._alias.element_size()
            if part < _SMALL_PART * block.size:
                self._copy = self._alias.clone()
            else:
                block.back_up()

    @property
    def key(self) -> int | None:
        """What tensors of the same memory have in common (:func:`storage_key`)."""
        return None if self._block is None else self._block.key

    @property
    def written(self) -> bool:
        """Whether the tensor was written to by an operation, or looks elsewhere now."""
        return _version(self.tensor) != self._version or not self._in_place()

    def restore(self, *, compare: bool = False) -> None:
        """Put the memory back to the size it had, the tensor on it, and the values that were copied into it.

        Args:
            compare: whether to write only what differs, which memory that cannot be written to asks for.
        """
        if self._block is not None:
            self._block.restore(compare=compare)
        if not self.tensor.is_inference() and not self._in_place():
            self.tensor.data = self._alias
        if self._copy is not None and not (compare and _equal(self._alias, self._copy)):
            _write(self._alias, self._copy)
        self._version = _version(self.tensor)

    def _in_place(self) -> bool:
        now, was = self.tensor, self._alias
        if self._block is None or storage_key(now) is None:
            return now is was
        return (
            storage_key(now) == self._block.key
            and now.shape == was.shape
            and now.stride() == was.stride()
            and now.dtype == was.dtype
            and now.storage_offset() == was.storage_offset()
        )


class _Block:
    """One storage, its size, and a copy of its bytes once one was made."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.key = storage._cdata
        self.size = storage.nbytes()
        self.copy: Tensor | None = None

    def back_up(self) -> None:
        if self.copy is None and self.size and self.storage.device.type != "meta":
            self.copy = self._bytes().clone()

    def restore(self, *, compare: bool) -> None:
        if self.storage.nbytes() != self.size:
            self.storage.resize_(self.size)
        if self.copy is None:
            return
        now = self._bytes()
        if not (compare and _equal(now, self.copy)):
            now.copy_(self.copy)

    def _bytes(self) -> Tensor:
        whole = torch.empty(0, dtype=torch.uint8, device=self.storage.device)
        return whole.set_(self.storage)


def kept(tensors: Iterable[Tensor], *, apart_from: Iterable[int] = ()) -> list[Kept]:
    """Return copies of ``tensors``, leaving out those whose memory is that of ``apart_from`` (:func:`storage_key`)."""
    blocks: dict[int, _Block] = {}
    others = set(apart_from)
    found = [Kept(t, blocks) for t in tensors if storage_key(t) not in others]
    for one in found:
        one.back_up()
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    # On an accelerator, to ask would be to wait.
    return one.device.type == "cpu" and is_dense(one) and one.shape == other.shape and torch.equal(one, other)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _write(target: Tensor, source: Tensor) -> None:
    if is_dense(target):
        for dim, stride in enumerate(target.stride()):
            if stride == 0 and target.shape[dim] > 1:  # an expanded tensor: one write for all that share the memory
                target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    with torch.inference_mode() if target.is_inference() else contextlib.nullcontext():
        target.copy_(source)
