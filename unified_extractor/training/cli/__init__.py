"""The training commands of ``uniex`` and their errors."""
