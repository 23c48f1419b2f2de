"""The engine's door: of all programs of Hutch the only one that holds the engine's socket."""
