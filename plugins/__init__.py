"""The built-in methods, one file for each family, found through entry points just like third-party methods."""
