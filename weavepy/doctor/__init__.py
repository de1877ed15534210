"""`weavepy doctor`: what is wrong with this host and its connections, and what to do about it.

Rules. `gather` looks and judges nothing; `judge` and `firewall` judge and look at nothing, so that every finding can be
tested with made-up facts. Nothing on the host is changed: no module is loaded, no interface made where others could
see it. Whatever may wait has a time limit, and what couldn't be looked at is said, not left out. No secret is
read.
"""
