"""Memory: what a model keeps of its past, counted from its configuration, and what it would need.

The history state of a model (`history_state`), read off its layers (`architectures`,
`layer_memories`), and the L²M condition on it (`l2m_condition`). Nothing here runs a model.
"""
