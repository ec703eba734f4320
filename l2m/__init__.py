"""Mutual information scaling in text: the measurements of the L²M paper (arXiv 2503.04725).

Its public names are here, ``from l2m import score``; each is loaded when it is first used, so that
``import l2m`` brings neither torch nor pandas.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {  # name → the module that defines it
    "CopySource": "l2m.sources.markov",
    "GaussianFamily": "l2m.sources.gaussian",
    "MarkovSource": "l2m.sources.markov",
    "SantaFeSource": "l2m.sources.santa_fe",
    "Training": "l2m.training.loop",
    "bipartite_mi": "l2m.information.bipartite",
    "bootstrap_power_law": "l2m.information.scaling",
    "build_model": "l2m.training.networks",
    "compare_laws": "l2m.information.scaling",
    "entropy": "l2m.information.entropy",
    "fit_power_law": "l2m.information.scaling",
    "growth": "l2m.memory.l2m_condition",
    "history_state_dim": "l2m.memory.history_state",
    "load_corpus": "l2m.text.corpora",
    "load_model": "l2m.language_models.models",
    "load_tokenizer": "l2m.language_models.models",
    "required_dim": "l2m.memory.l2m_condition",
    "satisfies_l2m": "l2m.memory.l2m_condition",
    "score": "l2m.language_models.scoring",
    "train": "l2m.training.loop",
    "two_point_mi": "l2m.information.two_point",
}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'l2m' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
