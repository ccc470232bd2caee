"""What stands below `train` and `trainer`: models, losses, checkpoints, ranks, memory and speed."""
