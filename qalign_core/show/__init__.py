"""What people look at: tables, figures, the report's pages, and what the notebooks show."""
