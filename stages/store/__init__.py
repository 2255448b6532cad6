"""The only modules that open things: files, archives, the network, models on disk. Imports core."""
