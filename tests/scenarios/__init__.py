"""Transcripts: what two controllers do, told as commands and their complete output (`python -m tests.scenarios`)."""
