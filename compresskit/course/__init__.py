"""Stages in a training loop that is not ours."""
