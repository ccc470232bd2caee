"""From data sets to the files a run reads: fetched, verified, read row by row, audited, derived, disclosed."""
