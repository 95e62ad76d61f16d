"""Measurements, one command each; the last line of each is JSON."""
