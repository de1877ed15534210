"""Keys and what is done with them: the host's key, the handshake, control-channel boxes, data keys and their
epochs.

Rules of this package. Randomness is passed in as bytes. No secret appears in a repr, a log line or an error.
"""
