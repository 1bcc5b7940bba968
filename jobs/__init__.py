"""One command per module: parse the options, call the library, print the result."""
