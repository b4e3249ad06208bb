"""The quantizations that come with adapterzoo, a family in each file."""
