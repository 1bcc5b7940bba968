"""One command per module: parse, call, report."""
