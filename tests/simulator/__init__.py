"""Two whole controllers in one process, in virtual time, from one seed: `python -m tests.simulator --help`."""
