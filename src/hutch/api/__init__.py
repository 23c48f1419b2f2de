"""The HTTP API: who is asking, what they may, and the shapes that go in and out."""
