"""From a Keras model to a file that was looked at: lower, convert, audit, compare."""
