"""Programs with others' clients of the compatible endpoints, in an environment of their own."""
