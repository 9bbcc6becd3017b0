"""The parts of ``uniex gpu``: what a machine with a GPU is asked, the most valuable first."""
