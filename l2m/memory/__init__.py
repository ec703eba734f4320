"""Memory: what a model keeps of its past, counted from its configuration, and what it would need.

The history state of a model (`history_state`), read off its layers (`architectures`,
`layer_memories`), the L²M condition on it (`l2m_condition`), the least divergence of a linear
memory (`linear_memory`), and an attention whose cache grows like L^s (`blocks`, `power_attention`).
Nothing here runs a model.
"""
