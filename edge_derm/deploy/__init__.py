"""Atomic releases on a board: built here, installed there without a network, switched by one rename, rolled back by themselves."""
