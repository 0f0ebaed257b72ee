"""The pure heart: state, request, now and ids in; entries out. No I/O, no clock, no randomness, no asyncio."""
