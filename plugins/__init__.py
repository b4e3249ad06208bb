"""The built-in methods, one file a family. Each is found through its entry point, as a stranger's would be."""
