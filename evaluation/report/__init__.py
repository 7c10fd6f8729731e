"""The page at the end of a run, and the questions that went wrong."""
