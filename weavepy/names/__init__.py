"""Which names containers have, the gossip channel that carries them (weaveDNS of Weave Net 2.8.1), and what a question
about one comes to.
"""
