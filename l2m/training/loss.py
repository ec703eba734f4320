"""The loss of a language model without its logits.

The logits of a batch are its largest tensor by far: 32,768 tokens of 49,152 logits take 6.4 GB in
fp32. Here they exist for one chunk of tokens at a time, and its gradients are taken meanwhile, so
that nothing is computed twice. Products are in autocast's dtype, softmax and sums in fp32.
"""

import torch

from l2m.language_models.likelihood import hidden_after_bos, sequences
from l2m.language_models.packing import compiled
from l2m.training.acceleration import autocast_dtype

CHUNK_BYTES = 1 << 32  # of a chunk's logits in fp32; they live in the dtype of the products


def token_loss(model, tokens, bos_token_id: int):
    """Mean loss of a language model on tokens (B, L), BOS in front: fp32 scalar, nats."""
    hidden = hidden_after_bos(model, tokens, bos_token_id).flatten(0, 1)
    return LinearCrossEntropy.apply(hidden, model.get_output_embeddings().weight, tokens.flatten())


@torch.no_grad()
def token_values(model, tokens, bos_token_id: int):
    """Loss of every token, fp32 (B, L), in nats, not differentiable."""
    return -sequences(model, tokens, bos_token_id)


class LinearCrossEntropy(torch.autograd.Function):
    """Mean of -log softmax(hidden (N, d) · weight (M, d)ᵀ)[targets (N,)]: fp32 scalar, nats."""

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        ctx.dtypes = hidden.dtype, weight.dtype
        dtype = autocast_dtype(hidden)
        hidden, weight = hidden.detach().to(dtype), weight.detach().to(dtype)
        loss = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        # compiled, it is two passes over the logits
        softmax = compiled(_softmax) if hidden.is_cuda else _softmax
        # tokens per chunk: a power of two, so that most batches split evenly
        rows = 1 << max(4, (CHUNK_BYTES // (4 * weight.shape[0])).bit_length() - 1)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = hidden[part] @ weight.T
            nll, grad_logits = softmax(logits, targets[part], 1 / len(targets))
            loss += nll
            torch.mm(grad_logits, weight, out=grad_hidden[part])
            grad_weight += grad_logits.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx, grad):
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(ctx.dtypes[0]), (grad_weight * grad).to(ctx.dtypes[1]), None


def _softmax(logits, targets, scale: float):
    """Sum of the chunk's losses and their gradient in the logits, both times `scale`."""
    wide = logits.float()
    log_norm = wide.logsumexp(-1, keepdim=True)
    nll = (log_norm[:, 0] - wide.gather(1, targets[:, None])[:, 0]).sum() * scale
    hot = torch.arange(wide.shape[1], device=wide.device) == targets[:, None]
    grad = ((wide - log_norm).exp() - hot.float()) * scale
    return nll, grad.to(logits.dtype)
