"""What stands below `generate`: the questions of a job, greedy decoding in a running batch, answers on disk."""
