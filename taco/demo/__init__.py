"""``make demo``: a made show through the real graph, recorded and scored."""
