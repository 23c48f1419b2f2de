"""The sandbox image: made from pinned inputs, labelled with what is in it."""
