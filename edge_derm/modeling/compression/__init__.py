"""Smaller and quantised networks that decide like the one they came from.

``chain`` (a network as folded convolutions) is what the others work on: ``equalise`` → ``reconstruct`` → ``sensitivity``.
"""
