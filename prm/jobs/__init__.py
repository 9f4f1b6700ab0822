"""What every long command needs, whatever it does: a journal to go on from, processes, a progress bar."""
