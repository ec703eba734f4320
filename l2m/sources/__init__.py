"""Sources that are solved exactly: the truth against which estimators and models are held.

Every source of tokens has a vocabulary of ``vocab_size`` tokens 0, 1, ... and four methods (nats):

    sample(n, length, rng)       n independent windows, int64 (n, length)
    log_prob(tokens, start=0)    ln p(w_t | w_start ... w_{t-1}) of every token, float (n, T)
    bipartite_mi(split, length)  I_BP(ℓ; L) = I(W_1..W_ℓ ; W_ℓ+1..W_L), exact (Def. 4.1)
    two_point_mi(d)              I_TP(d) = I(W_i ; W_i+d), exact (Def. 4.2)

``start`` is the position of the block's first token. Stationary sources ignore it, so that
``log_prob(Y)`` is the exact marginal of any block Y; `PairSource` needs it. `GaussianFamily` is a
source of real numbers, with its own methods.
"""

from l2m.sources.echo import EchoSource
from l2m.sources.gaussian import GaussianFamily
from l2m.sources.markov import CopySource, HiddenMarkovSource, MarkovSource
from l2m.sources.paired_bits import PairSource
from l2m.sources.santa_fe import SantaFeSource
