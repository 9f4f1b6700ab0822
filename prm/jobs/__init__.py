"""What every long command needs: a journal to go on from, processes, a progress bar, memory that it keeps."""
