"""Where frames go: the fastpath overlay of one connection, and the tables that the engine forwards by."""
