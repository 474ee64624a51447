"""Client for vLLM servers."""
