"""Models whose parameters are spread over processes: what one rank holds, what all hold together, and one verdict of all."""
