"""What is kept of the past: summaries of trips and days, lines of trips, late parts of them, and how long each is kept."""
