"""The selective scan of Mamba-1 on a GPU, forward and backward, as two small Triton kernels.

    hₜ = exp(Δₜ A) hₜ₋₁ + Δₜ uₜ Bₜ,    yₜ = Cₜ · hₜ                 (Mamba, arXiv 2312.00752, eq. 2)

A program walks through time with the states of some channels in its registers, where mamba-ssm
spreads time over threads: fewer operations, and gradients of B and C are summed over channels
before they are added to memory, but a GPU is busy only if there are many channels. The backward
pass walks from the last step to the first; states are computed again from those left every `CHUNK`
steps, `STEPS` at a time in registers. All sums are in fp32.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

CHUNK, STEPS = tl.constexpr(64), tl.constexpr(8)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _program(A, BLOCK: tl.constexpr, N: tl.constexpr):
    """A program's sequence, channels and states, and their rates for a power of two."""
    d = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    n = tl.arange(0, N)[None, :]
    return tl.program_id(1).to(tl.int64), d, n, tl.load(A + d * N + n) * LOG2E


@triton.jit
def _row(pointer):
    return tl.load(pointer).to(tl.float32)


@triton.jit
def _rows(pointer, stride: tl.constexpr):
    """Load `STEPS` rows before anything is stored, since no load is moved up past a store."""
    rows = ()
    for i in tl.static_range(STEPS):
        rows += (_row(pointer + i * stride),)
    return rows


@triton.jit
def _states(h, a, us, deltas, Bs):
    hs = ()
    for i in tl.static_range(STEPS):
        h = tl.exp2(deltas[i] * a) * h + (deltas[i] * us[i]) * Bs[i]
        hs += (h,)
    return hs


@triton.jit
def _forward(
    u, delta, A, B, C, y, starts,
    L: tl.constexpr, D: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b, d, n, a = _program(A, BLOCK, N)
    h = tl.zeros((BLOCK, N), tl.float32)
    for chunk in range(L // CHUNK):
        tl.store(starts + ((b * (L // CHUNK) + chunk) * D + d) * N + n, h)
        for part in range(CHUNK // STEPS):
            t = b * L + chunk * CHUNK + part * STEPS
            row, state = t * D + d, t * N + n
            Cs = _rows(C + state, N)
            hs = _states(h, a, _rows(u + row, D), _rows(delta + row, D), _rows(B + state, N))
            h = hs[STEPS - 1]
            for i in tl.static_range(STEPS):
                yt = tl.sum(hs[i] * Cs[i], 1, keep_dims=True)
                tl.store(y + row + i * D, yt.to(y.dtype.element_ty))


@triton.jit
def _backward(
    u, delta, A, B, C, starts, dy, scratch, du, ddelta, dA, dB, dC,
    L: tl.constexpr, D: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b, d, n, a = _program(A, BLOCK, N)
    g = tl.zeros((BLOCK, N), tl.float32)  # the loss by hₜ
    da = tl.zeros((BLOCK, N), tl.float32)
    chunks: tl.constexpr = L // CHUNK
    parts: tl.constexpr = CHUNK // STEPS
    own = scratch + (b * D + d) * (parts * N) + n
    for back in range(chunks):
        chunk = chunks - 1 - back
        h = tl.load(starts + ((b * chunks + chunk) * D + d) * N + n)
        for part in range(parts):
            t = b * L + chunk * CHUNK + part * STEPS
            row, state = t * D + d, t * N + n
            us, deltas, Bs = _rows(u + row, D), _rows(delta + row, D), _rows(B + state, N)
            tl.store(own + part * N, h)
            h = _states(h, a, us, deltas, Bs)[STEPS - 1]
        tl.debug_barrier()  # what was stored is loaded below
        for done in range(parts):
            part = parts - 1 - done
            t = b * L + chunk * CHUNK + part * STEPS
            row, state = t * D + d, t * N + n
            h = tl.load(own + part * N)
            dys, Cs = _rows(dy + row, D), _rows(C + state, N)
            hs = _states(h, a, _rows(u + row, D), _rows(delta + row, D), _rows(B + state, N))
            for i in tl.static_range(STEPS - 1, -1, -1):
                # again, from the nearest cache: kept, these would take too many registers
                ut, dt = _row(u + row + i * D), _row(delta + row + i * D)
                Bt = _row(B + state + i * N)
                g += dys[i] * Cs[i]
                x = dt * ut
                by_decay = g * (hs[i] - x * Bt)  # the loss by Δₜ A: g exp(Δₜ A) hₜ₋₁
                by_input = tl.sum(g * Bt, 1, keep_dims=True)  # the loss by Δₜ uₜ
                by_delta = by_input * ut + tl.sum(by_decay * a, 1, keep_dims=True) / LOG2E
                da += by_decay * dt
                dBt = tl.sum(g * x, 0, keep_dims=True)
                dCt = tl.sum(hs[i] * dys[i], 0, keep_dims=True)
                tl.store(du + row + i * D, (by_input * dt).to(du.dtype.element_ty))
                tl.store(ddelta + row + i * D, by_delta.to(ddelta.dtype.element_ty))
                tl.atomic_add(dB + state + i * N, dBt, sem="relaxed")
                tl.atomic_add(dC + state + i * N, dCt, sem="relaxed")
                g = g * tl.exp2(dt * a)
        tl.debug_barrier()
    tl.store(dA + (b * D + d) * N + n, da)


def _grid(u, N):
    """Programs, and the channels of each: they divide D, and have 256 states if they can."""
    b, _, D = u.shape
    block = min(max(1, 256 // N), D & -D)
    return (D // block, b), block


@torch.library.custom_op("l2m::selective_scan", mutates_args=())
def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    if not (u.is_cuda or INTERPRETED):
        raise ValueError("the selective scan needs a GPU, or TRITON_INTERPRET=1 set at the start")
    (b, L, D), N = u.shape, A.shape[1]
    y, starts = torch.empty_like(u), A.new_empty(b, L // CHUNK.value, D, N)
    grid, block = _grid(u, N)
    with torch.cuda.device_of(u):  # a kernel runs on the current GPU
        _forward[grid](u, delta, A, B, C, y, starts, L, D, N, block, num_warps=1)
    return y, starts


@_scan.register_fake
def _(u, delta, A, B, C):
    return torch.empty_like(u), A.new_empty(u.shape[0], u.shape[1] // CHUNK.value, *A.shape)


@torch.library.custom_op("l2m::selective_scan_backward", mutates_args=())
def _scan_backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (b, L, D), N = u.shape, A.shape[1]
    out = [torch.empty_like(u), torch.empty_like(delta), A.new_empty(b, D, N)]
    out += [torch.zeros_like(B), torch.zeros_like(C)]
    scratch = A.new_empty(b, D, CHUNK.value // STEPS.value, N)
    grid, block = _grid(u, N)
    # with so few registers, an H100 holds all programs of a 130M model at once
    few = {"num_warps": 1, "maxnreg": 168}
    with torch.cuda.device_of(u):
        _backward[grid](u, delta, A, B, C, starts, dy, scratch, *out, L, D, N, block, **few)
    return out[0], out[1], out[2].sum(0), out[3], out[4]


@_scan_backward.register_fake
def _(u, delta, A, B, C, starts, dy):
    return tuple(torch.empty_like(x) for x in (u, delta, A, B, C))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx, dy, _):
    return _scan_backward(*ctx.saved_tensors, dy.contiguous())


_scan.register_autograd(_differentiate, setup_context=_keep)


def selective_scan(u, delta, A, B, C):
    """Outputs (batch, L, D), in u's dtype, of Mamba-1's selective scan from a state of zeros.

    `u` and `delta` (batch, L, D) are each channel's input and its step Δ (positive), `A` (D, N) the
    rates of its states (negative), `B` and `C` (batch, L, N) what the input adds to the states, and
    how the output reads them. Differentiable. ValueError off a GPU, unless Triton interprets.
    """
    length, states = u.shape[1], A.shape[1]
    # the kernels take whole chunks, and a power of two of states
    late, more = -length % CHUNK.value, (1 << (states - 1).bit_length()) - states
    A, B, C = (pad(x.float(), (0, more)) if more else x.float() for x in (A, B, C))
    u, delta, B, C = (pad(x, (0, 0, 0, late)) if late else x.contiguous() for x in (u, delta, B, C))
    y, _ = _scan(u, delta, A.contiguous(), B, C)
    return y[:, :length]
