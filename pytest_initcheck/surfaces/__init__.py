"""What pytest and the command have in common: options, hooks, the line of progress, report files."""
