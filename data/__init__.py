"""Files and rows: sources with one schema, candidates, collators, the sample data and the offline backbone."""
