"""What people look at: tables, figures, pages, and the views of the notebooks."""
