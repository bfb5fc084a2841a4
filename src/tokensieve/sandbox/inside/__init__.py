"""Code that runs in the worker process, with nothing but the standard library: it is loaded without the package."""
