"""Frames → quality gate → classifier → view: the loop a product starts from. Not a medical device."""
