"""Two whole controllers in one process, in virtual time, from one seed: `python -m tests.simulator --help`."""

from middlewared import lines

# The one thing that production code does with a real socket outside the event loop: in memory, a path is enough.
lines.listening = lambda path: path  # type: ignore[assignment,return-value]  # a path stands for the socket
