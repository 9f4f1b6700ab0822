"""Training: batches of whole questions, frozen features, the trainer, TensorBoard."""
