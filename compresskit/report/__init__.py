"""What a run measured and promised, as records, JSON and HTML."""
