"""Work that nobody waits for: a scheduler that ticks, workers that it wakes. What is due stands in the database."""
