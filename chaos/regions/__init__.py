"""Drills on real processes of two regions: a region killed under load, and graceful failovers under load.

    python -m chaos.regions kill --namespaces 500
    python -m chaos.regions graceful --failovers 20
"""
