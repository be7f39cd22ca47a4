"""What the engine costs, beside an empty application and other frameworks: `make bench`."""
