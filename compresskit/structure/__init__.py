"""Which units of a model belong together, and the same model without some of them."""
