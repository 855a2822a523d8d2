"""Evidence about a model: arrays in, figures with intervals out. NumPy alone."""
