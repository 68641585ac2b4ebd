"""Writes a network as C99 for embedded devices: static buffers, no allocation, no dependency but the C library."""
