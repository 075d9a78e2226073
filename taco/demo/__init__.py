"""``make demo``: a composed show through the real graph, recorded and scored."""
