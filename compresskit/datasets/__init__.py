"""Data sets that a recipe can use by name, one module each with a function `load`."""
