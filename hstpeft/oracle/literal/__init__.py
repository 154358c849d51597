"""The methods as short transcriptions of their equations: oracles of tests and benchmark."""
