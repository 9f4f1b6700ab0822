"""SQL and databases: sandboxed execution, comparison of results, decomposition into steps, mutation."""
