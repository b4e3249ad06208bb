"""The tasks that come with adapterzoo, one module each; every one is found through the entry points, like any other."""
