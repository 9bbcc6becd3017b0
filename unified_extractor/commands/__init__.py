"""The commands of ``uniex`` that do not train: each reads its arguments, calls the package and prints."""
