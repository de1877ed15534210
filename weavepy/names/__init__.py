"""Which names containers have: the set that all peers merge, and the gossip channel that carries it (weaveDNS of
Weave Net 2.8.1).
"""
