"""The vocabulary: frozen values and pure rules. Nothing in here does I/O."""
