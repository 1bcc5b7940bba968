"""What the service and the explorer share: token, Host and Origin checks, connections, CSP, files.

Knows nothing of models and tables.
"""
