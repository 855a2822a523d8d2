"""Latency, memory and environment of a bundle where it runs. What a target cannot know is None, with the reason."""
