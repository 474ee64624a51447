"""Learning without labels: probes, candidates, the teacher, the training step, the judge and the gate."""
