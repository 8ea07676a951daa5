"""Layers whose weights lie in the order in which oneDNN multiplies them on a CPU.

torch brings them into that order, or MKL into its own, at every call: in a small network that is a
fifth of a step. Kept, the order takes the memory of the weights once more, so large networks,
which gain little, go without. It follows a LoRA that is merged.

Each row of a batch gets the same bits in a batch of any size. The operators are those that
torch.compile puts into its graphs:
https://github.com/pytorch/pytorch/blob/v2.12.1/torch/_inductor/fx_passes/mkldnn_fusion.py
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# torch's stubs know an older signature.
_reorder_convolution: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight

PACKED_BYTES = 64 * 2**20  # of a network's weights
SIZES = 2  # of what is convolved, that a layer keeps an order for: each may have its own

_State = tuple[int, int]  # where a weight lies, and how often it was changed
_orders: WeakKeyDictionary[nn.Module, tuple[_State, dict[Hashable, Tensor]]] = WeakKeyDictionary()


class PackedLinear(nn.Linear):
    """The same layer, with the same weights. Vectors, which are multiplied faster as they are, and
    single tokens, go to the plain one."""

    def forward(self, given: Tensor) -> Tensor:
        packed = given.ndim == 3 and given.shape[1] > 1 and _fits(self, given)
        return _times(self, given) if packed else super().forward(given)


class PackedPointwise(nn.Conv2d):
    """The same convolution, with the same weights and a kernel of one pixel: a linear layer."""

    def forward(self, given: Tensor) -> Tensor:
        if not (given.ndim == 4 and _fits(self, given)):
            return super().forward(given)
        return _times(self, given.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PackedConv2d(nn.Conv2d):
    """The same convolution, with the same weights."""

    def forward(self, given: Tensor) -> Tensor:
        if not (given.ndim == 4 and _fits(self, given)):
            return super().forward(given)
        how = self.padding, self.stride, self.dilation, self.groups
        size = given.shape[2:]

        def ordered(weight: Tensor) -> Tensor:
            shape = [1, self.in_channels, *size]
            return _reorder_convolution(weight.to_mkldnn(), *how, shape)

        return torch.ops.mkldnn._convolution_pointwise(
            given, _in_order(self, ordered, size), self.bias, *how, "none", [], ""
        )


def pack(network: nn.Module) -> None:
    """Its layers from now on, where they are few enough and this machine is one that gains."""
    layers = [m for m in network.modules() if type(m) is nn.Linear or type(m) is nn.Conv2d]
    if not _gains() or sum(layer.weight.nbytes for layer in layers) > PACKED_BYTES:
        return
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.__class__ = PackedLinear
        elif layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = PackedPointwise if _is_pointwise(layer) else PackedConv2d


def _is_pointwise(layer: nn.Conv2d) -> bool:
    whole = layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return whole and layer.kernel_size == (1, 1)


def _times(layer: nn.Linear | nn.Conv2d, given: Tensor) -> Tensor:
    """(..., in) -> (..., out)"""

    def ordered(weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1))

    order = _in_order(layer, ordered)
    return torch.ops.mkldnn._linear_pointwise(given, order, layer.bias, "none", [], "")


def _in_order(
    layer: nn.Linear | nn.Conv2d, ordered: Callable[[Tensor], Tensor], size: Hashable = ()
) -> Tensor:
    """The layer's weight as it is now, for what has this height and width."""
    now = layer.weight.data_ptr(), layer.weight._version
    before, orders = _orders.get(layer, (None, {}))
    if before != now:
        orders = {}
        _orders[layer] = now, orders
    if size not in orders:
        if len(orders) == SIZES:
            del orders[next(iter(orders))]
        orders[size] = ordered(layer.weight.detach())
    return orders[size]


def _fits(layer: nn.Linear | nn.Conv2d, given: Tensor) -> bool:
    """Whether it is multiplied as it is: nobody trains, compiles or converts it on the way. Weights
    that learn, as those of a LoRA, to which peft gives the type of the layer beside it, change
    unseen: averages are put in their place and taken away again."""
    return (
        not torch.compiler.is_compiling()
        and not layer.weight.requires_grad
        and not layer.weight.is_inference()  # which have no version
        and given.dtype == torch.float32
        and given.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _gains() -> bool:
    """A CPU with AVX, where it was measured, and a torch that was built with oneDNN."""
    return torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()
