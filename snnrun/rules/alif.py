"""A layer of STBP whose neurons adapt, or have time constants each of its own, in parts that autograd puts together.

The drive, which is what comes in at each step, and the neurons (`kernels.reference.alif`) are a node each. The kernels
of plain STBP compute the drive and its gradients: a neuron that forgets within a step and cannot fire has its input as
its membrane, and one whose surrogate derivative is 1 and has no past hands on its error as it is. The recurrent weights
meet their errors as if the layer's own spikes came in a step later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnrun.kernels import Alif, Stbp, Window, alif_ops, image_ops, reference, stbp_ops, words
from snnrun.rules.base import Currents, LayerKind, LayerWeights, SpikeTrain, every_step
from snnrun.rules.views import Driven, view_of

_SUM = Stbp(v_th=torch.finfo(torch.float32).max, decay=0.0)
_AS_IT_IS = Stbp(v_th=0.0, decay=0.0, surrogate="rectangle", width=1.0, temporal_gradient=False)


def adaptive_layer(
    kind: LayerKind, weights: LayerWeights, inputs: SpikeTrain | Currents, alif: Alif, neuron: Stbp
) -> SpikeTrain:
    """Run a layer. The gradient of its spikes comes back through `counts` and `link`.

    `weights.weight` is (N, I), or (K, C, height, width) with a window. `alif` may have trained constants.
    """
    if isinstance(inputs, Currents):
        steps = inputs.steps
        drive = _DriveOfCurrents.apply(inputs.values, weights.weight, weights.bias, view_of(kind, steps))  # type: ignore[no-untyped-call]
    else:
        steps = inputs.spikes.shape[1]
        drive = _Drive.apply(  # type: ignore[no-untyped-call]
            inputs.spikes, inputs.link, inputs.near, weights.weight, weights.bias, kind.window
        )
    recurrent = weights.recurrent_weight, weights.recurrent_mask
    return SpikeTrain(*_Neurons.apply(drive, *recurrent, *alif, neuron, steps))  # type: ignore[no-untyped-call]


def near(ctx: Any, membrane: Tensor, neuron: Stbp) -> Tensor | None:
    """Which spikes of a layer need a gradient; None for all, as on a GPU, which multiplies matrices as fast without.

    A compiled or exported graph is to run on either.
    """
    if not neuron.bounded or membrane.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if not any(ctx.needs_input_grad):
        return None
    return stbp_ops.stbp_near(membrane, neuron)


class _Drive(torch.autograd.Function):
    """A node from (spikes, link, near) to the drive (B, T, N). Spikes and near are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes_in: Tensor,
        link_in: Tensor | None,
        near_in: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        window: Window | None,
    ) -> Tensor:
        del link_in
        ctx.save_for_backward(spikes_in, near_in, weight)
        ctx.window = window
        if window is None:
            return stbp_ops.stbp_forward(spikes_in, weight, bias, None, _SUM)[2]
        return image_ops.stbp_conv_forward(spikes_in, weight, bias, window, _SUM)[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_drive: Tensor) -> Sequence[Tensor | None]:
        spikes_in, near_in, weight = ctx.saved_tensors
        _, wants_input, _, wants_weight, wants_bias, _ = ctx.needs_input_grad
        if ctx.window is None:
            grad_in, grad_weight, grad_bias = _products(
                grad_drive, spikes_in, weight, wants_input, wants_weight, near_in
            )
        else:
            grad_in, grad_weight, grad_bias = image_ops.stbp_conv_backward(
                grad_drive, spikes_in, *_at_rest(grad_drive), weight, ctx.window, _AS_IT_IS, wants_input, wants_weight
            )
        return (
            None,
            grad_in if wants_input else None,
            None,
            grad_weight if wants_weight else None,
            grad_bias if wants_bias else None,
            None,
        )


class _DriveOfCurrents(torch.autograd.Function):
    """`_Drive` of currents, values (B, K, I), to (B, K, N). No gradient goes to them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, view: Driven) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.view, ctx.biases = view, 0 if bias is None else len(bias)
        drive = view.driven(values, weight)
        return drive if bias is None else drive + bias.repeat_interleave(drive.shape[2] // len(bias))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_drive: Tensor) -> Sequence[Tensor | None]:
        values, weight = ctx.saved_tensors
        bias = grad_drive.sum(dim=(0, 1)).reshape(ctx.biases, -1).sum(dim=1) if ctx.biases else None
        return None, ctx.view.gradient(values, grad_drive, weight), bias, None


class _Neurons(torch.autograd.Function):
    """A node from the drive (B, K, N) to (spikes, counts, link, near) over so many steps."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        recurrent_weight: Tensor | None,
        recurrent_mask: Tensor | None,
        decay: Tensor,
        adaptation_decay: Tensor,
        strength: float,
        neuron: Stbp,
        steps: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        alif = Alif(decay, adaptation_decay, strength)
        spikes, counts, membrane, effective = alif_ops.alif_scan(drive, recurrent_weight, alif, neuron, steps)
        ctx.save_for_backward(spikes, membrane, effective, recurrent_weight, recurrent_mask, decay, adaptation_decay)
        ctx.strength, ctx.neuron, ctx.count = strength, neuron, drive.shape[1]
        bits = near(ctx, effective if strength else membrane, neuron)
        ctx.mark_non_differentiable(spikes, *(() if bits is None else (bits,)))
        ctx.set_materialize_grads(False)
        return spikes, counts, counts.new_zeros(1, 1, 1).expand(membrane.shape), bits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, _: None, grad_counts: Tensor | None, grad_link: Tensor | None, __: None
    ) -> Sequence[Tensor | None]:
        spikes, membrane, effective, recurrent_weight, mask, decay, rho = ctx.saved_tensors
        grad_u, grad_decay, grad_rho = alif_ops.alif_scan_backward(
            every_step(grad_counts, grad_link, membrane), spikes, membrane, effective, recurrent_weight,
            Alif(decay, rho, ctx.strength), ctx.neuron,
        )  # fmt: skip
        grad_loop = None
        if mask is not None and ctx.needs_input_grad[1]:
            later = torch.cat([torch.zeros_like(spikes[:, :1]), spikes[:, :-1]], dim=1)
            grad_loop = _products(grad_u, later, recurrent_weight, False, True)[1] * mask
        grad_drive = grad_u if ctx.count == grad_u.shape[1] else reference.held_sums(grad_u, ctx.count)
        return grad_drive, grad_loop, None, grad_decay, grad_rho, None, None, None


def _products(
    grad_drive: Tensor,
    spikes_in: Tensor,
    weight: Tensor,
    wants_input: bool,
    wants_weight: bool,
    near_in: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The errors of the spikes (B, T, I), weights (N, I) and biases (N,) of a drive W s_in + b."""
    return stbp_ops.stbp_backward(
        grad_drive, spikes_in, *_at_rest(grad_drive), weight, None, _AS_IT_IS, wants_input, wants_weight, near_in
    )[:3]


def _at_rest(drive: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of no spikes, and membranes of 0, of the neurons of a drive."""
    batch, steps, neurons = drive.shape
    return drive.new_zeros(batch, steps, words(neurons), dtype=torch.int64), torch.zeros_like(drive)
