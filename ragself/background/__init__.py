"""Training in the background: when it is due, in a process of its own, and supervision of what was promoted."""
