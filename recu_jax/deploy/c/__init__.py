"""Writes a network as C99 for devices: static buffers, no allocation, no dependency but the C library."""
