"""Everything pytest: options, markers, the fixture, items and the summary."""
