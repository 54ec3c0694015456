"""Assertions about initialization that hold at a stated rate of false alarms."""
