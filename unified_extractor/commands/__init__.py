"""The commands of ``uniex`` that do not train: they read their arguments, call the package, print."""
