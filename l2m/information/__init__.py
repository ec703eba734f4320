"""Information: counts and log-likelihoods become nats, nats become laws with intervals.

Entropies of counts (`entropy`, `pair_counts`), the mutual information of two tokens (`two_point`)
and of two halves of a text (`bipartite`), power laws (`scaling`), a monotone curve through points
(`data_collapse`), intervals from resampling whole books (`resampling`).
"""
