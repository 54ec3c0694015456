"""A model is run once, forward and backward, and left as it was; what was seen is a trace."""
