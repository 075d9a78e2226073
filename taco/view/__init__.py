"""Pictures and pages: overlays, figures, reports, viewers."""
