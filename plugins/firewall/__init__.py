"""Keeps traffic to virtual addresses out until the controller is fit to serve it."""
