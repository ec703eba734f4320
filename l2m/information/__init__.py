"""Information: counts and log-likelihoods become nats, nats become laws with intervals.

Entropies of counts (`entropy`, `pair_counts`), the mutual information of two tokens (`two_point`)
and of two halves of a text (`bipartite`), power laws (`scaling`), the monotone curve through many
points (`data_collapse`), and intervals from resampling whole books (`resampling`). Everything works
on arrays and tables: imports nothing of l2m but itself.
"""
