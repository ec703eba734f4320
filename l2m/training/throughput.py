"""How fast a model trains, and what share of the card's arithmetic that is."""

import pandas as pd

from l2m.language_models.models import device_name

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, NVIDIA's data sheets


def flops_per_token(model, length: int) -> float:
    """Floating-point operations of one token's forward and backward pass.

    Six a weight that multiplies (tied embeddings once, positions not), and 6·layers·width·L for
    causal attention (App. B of PaLM, arXiv 2204.02311, halved since half of the pairs are
    masked). The scans of Mamba are not counted.
    """
    weights = sum(
        p.numel() for name, p in model.named_parameters() if not name.endswith("wpe.weight")
    )
    config = model.config
    attention = config.model_type == "gpt2"
    return 6 * weights + attention * 6 * config.num_hidden_layers * config.hidden_size * length


def peak_flops(device):
    """Operations a second of the card's data sheet in bf16, or 0 if it is not known."""
    name = device_name(device)
    return next((peak for card, peak in PEAK_FLOPS.items() if card in name), 0.0)


def state(loss, speed, peak):
    """What the bar says: the loss, and the share of `peak` operations a second."""
    return f"loss {loss:.4f}" + (f", {speed / peak:.0%} of peak" if peak else "")


def progress_bar(total, initial, shown):
    """Bar over tokens, with their rate and the time left."""
    from tqdm.auto import tqdm

    return tqdm(
        total=total,
        initial=initial,
        unit="token",
        unit_scale=True,
        disable=not shown,
        mininterval=1,
    )


def metrics(rows, device, flops, peak):
    """The table of `l2m.training.loop.train` from its rows."""
    columns = ["step", "tokens", "loss", "rate", "gradient_norm", "seconds", "watched"]
    table = pd.DataFrame(rows, columns=columns).astype({"watched": float})
    steady = table.iloc[len(table) // 10 :]  # without compiling and warming up
    done = steady.tokens.max() - table.tokens.shift(fill_value=0).iloc[len(table) // 10]
    speed = float(done / steady.seconds.sum()) if len(table) else float("nan")
    table.attrs = {
        "device": device_name(device),
        "tokens": int(table.tokens.max()) if len(table) else 0,
        "tokens_per_second": speed,
        "model_flops_share": speed * flops / peak if peak else None,
    }
    return table
