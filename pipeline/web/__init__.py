"""What the service and the explorer share: token, Host and Origin checks, CSP, static files.

Knows nothing of models and tables.
"""
