"""Mutual information scaling in text: the measurements of the L²M paper (arXiv 2503.04725).

Its public names are here, ``from l2m import score``; each is loaded when it is first used, so that
``import l2m`` brings neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:  # the same, for editors and type checkers
    from l2m.information.bipartite import bipartite_mi as bipartite_mi
    from l2m.information.entropy import entropy as entropy
    from l2m.information.scaling import bootstrap_power_law as bootstrap_power_law
    from l2m.information.scaling import compare_laws as compare_laws
    from l2m.information.scaling import fit_power_law as fit_power_law
    from l2m.information.two_point import two_point_mi as two_point_mi
    from l2m.language_models.models import load_model as load_model
    from l2m.language_models.models import load_tokenizer as load_tokenizer
    from l2m.language_models.scoring import score as score
    from l2m.memory.history_state import history_state_dim as history_state_dim
    from l2m.memory.l2m_condition import growth as growth
    from l2m.memory.l2m_condition import required_dim as required_dim
    from l2m.memory.l2m_condition import satisfies_l2m as satisfies_l2m
    from l2m.sources.gaussian import GaussianFamily as GaussianFamily
    from l2m.sources.markov import CopySource as CopySource
    from l2m.sources.markov import MarkovSource as MarkovSource
    from l2m.sources.santa_fe import SantaFeSource as SantaFeSource
    from l2m.text.corpora import load_corpus as load_corpus
    from l2m.training.loop import Training as Training
    from l2m.training.loop import train as train
    from l2m.training.networks import build_model as build_model


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'l2m' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
