"""The asyncio shell: owns sockets, timers and the clock, and performs what the pure router asks for."""
