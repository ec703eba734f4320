"""Information: counts and log-likelihoods become nats, nats become laws with intervals.

Entropies of counts (`entropy`, `pair_counts`), the mutual information of two tokens (`two_point`)
and of two halves of a text (`bipartite`), what of it is left when the past is cut (`budgets`),
power laws and curves through points (`scaling`), intervals from whole books (`resampling`).
"""
