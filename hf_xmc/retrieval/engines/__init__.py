"""Label indexes in a database: many writers, SQL filters, replicas. FAISS in the trained folder stays the default."""
