"""The contract of adapter methods, base classes that implement most of it, and the registry of installed methods."""
