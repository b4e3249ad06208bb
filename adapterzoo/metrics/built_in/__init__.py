"""The metrics that come with adapterzoo: a module each."""
