"""What the commands share: options, refusals, progress, summaries.

rich and typer are imported here and in jobs, nowhere else. Imported by jobs only.
"""
