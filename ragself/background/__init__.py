"""Background training: triggers, the worker process and its limits, watched folders, the guard for promotions."""
