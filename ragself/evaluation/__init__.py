"""Evaluation: metrics, calibration of the teacher, selection of a candidate, and the gate."""
