"""What `make bench` lets the worker load at its start; see sitecustomize.py."""
