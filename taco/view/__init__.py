"""Pictures and pages for people: overlays, figures, reports, viewers."""
