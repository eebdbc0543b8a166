"""Networks as other programs define them, written from their published names: nothing of the reader's is used here."""
