"""Mutual information scaling in text: the measurements of the L²M paper (arXiv 2503.04725).

Its public names are here, ``from l2m import score``; each is loaded when it is first used, so that
``import l2m`` brings neither torch nor pandas.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # modules, and the public names that they define
    "information.bipartite": ["bipartite_mi"],
    "information.entropy": ["entropy"],
    "information.scaling": ["bootstrap_power_law", "compare_laws", "fit_power_law"],
    "information.two_point": ["two_point_mi"],
    "language_models.models": ["load_model", "load_tokenizer"],
    "language_models.scoring": ["score"],
    "memory.history_state": ["history_state_dim"],
    "memory.l2m_condition": ["growth", "required_dim", "satisfies_l2m"],
    "sources.gaussian": ["GaussianFamily"],
    "sources.markov": ["CopySource", "MarkovSource"],
    "sources.santa_fe": ["SantaFeSource"],
    "text.corpora": ["load_corpus"],
    "training.loop": ["Training", "train"],
    "training.networks": ["build_model"],
}
_PUBLIC = {name: f"l2m.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'l2m' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
