"""`middlewared doctor`: what this host lacks, and the remedy."""
