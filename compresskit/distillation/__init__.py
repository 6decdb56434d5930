"""Distillation: a student is trained on what a teacher answers and shows inside."""
