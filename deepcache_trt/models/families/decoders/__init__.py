"""The families whose engines are the decoders of autoencoders, and what they share."""
