"""The engine `tfmot`: TFMOT trains the stages, on a tf_keras model, in a process of its own.

Importing TFMOT makes `tf.keras` of the whole process Keras 2. So `child.py` and
`techniques.py`, which do it, run in a child process alone, and nothing else imports them.
"""
