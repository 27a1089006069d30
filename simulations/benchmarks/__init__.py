"""Measurements of what this software costs, each against a target, written as figures anybody can check again."""
